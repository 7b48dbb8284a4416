"""Planted faults of signatures of models: another signer, other files, or a model read before that."""

from __future__ import annotations

from tests.mutants.changes import drop, drop_item, never, swap
from tests.mutants.mutant import Mutant

_VERIFY = "hybrid_llm.backends.signing.verify"
_CHAINS = "hybrid_llm.backends.signing.chains"
_STATEMENT = "hybrid_llm.backends.signing.statement"

MUTANTS = (
    Mutant(
        "a signature is not verified",
        f"{_VERIFY}:_accepted",
        drop("key.verify(signature.value, signature.signed, ec.ECDSA(hash_for(key)))"),
    ),
    Mutant("the files are not compared", f"{_VERIFY}:verify_folder", drop("check_files(signature.files, files)")),
    Mutant(
        "files that nobody signed are accepted",
        f"{_VERIFY}:check_files",
        drop_item("('is not signed', found.keys() - signed.keys())"),
    ),
    Mutant("a link takes the place of a file", f"{_VERIFY}:digest_folder", drop("if path.is_symlink(): ...")),
    Mutant("what a signature says is ignored may be anything", f"{_STATEMENT}:_ignored", swap("asked & _GIT", "asked")),
    Mutant(
        "any certificate of the authority signs models",
        f"{_CHAINS}:trusted_key",
        never("not code_signing(signer)"),
    ),
    Mutant(
        "a signer whose name begins like that of the trusted one is accepted",
        f"{_CHAINS}:trusted_key",
        swap("identity not in _names(signer)", "not any((name.startswith(identity) for name in _names(signer)))"),
    ),
    Mutant(
        "a certificate that may issue none issues one",
        f"{_CHAINS}:_signs_certificates",
        never("found is not None and not found.key_cert_sign"),
    ),
    Mutant(
        "a version gets the first of its signatures, whoever made it",
        f"{_VERIFY}:verify_any",
        swap("return data", "return signatures[0]"),
    ),
    Mutant(
        "a version is fetched before its signature is verified",
        "hybrid_llm.backends.models.registry.pull:pull",
        swap("None if trust is None else __", "None"),
    ),
    Mutant(
        "a model on the device is loaded whoever signed it",
        "hybrid_llm.backends.edge.backend:",
        swap("self._config.trust is None", "True"),
    ),
    Mutant(
        "the base of an adapter needs no signature", "hybrid_llm.backends.adapters:", drop("verify_folder(base, trust)")
    ),
    Mutant(
        "the process of an engine loads what was changed after the start of the node",
        "hybrid_llm.backends.node.worker:",
        drop("verify_signatures(config.model, config.trust, config.adapters.values())"),
    ),
)
