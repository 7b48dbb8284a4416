"""The expression language of conditions, a typed subset of CEL: lexer, parser, types, compiler."""
