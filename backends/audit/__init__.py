"""The audit log: who asked what kind of thing when, which cannot be changed unseen; never a text of prompt or answer.

Each record is a leaf of a Merkle tree (RFC 9162, section 2.1), and carries the tree's head up to itself, signed with a
key of the log (Ed25519). A record that is changed, removed, moved or added is named by `verify`; records that are cut
off at the end are found with a head from outside the log. `log.AuditLog` appends, `writer.AuditWriter` does so beside
requests, for nodes and for apps.
"""
