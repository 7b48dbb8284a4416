"""`hybrid-llm models sign` and `verify-signature`, and the options that say whose signature a model must have."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from hybrid_llm.backends.signing.trust import Trust
from hybrid_llm.cli.arguments import Command, add_json
from hybrid_llm.cli.terminal import Exit, note, output
from hybrid_llm.core.errors import ConfigError


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add `--ca`, `--identity` and `--public-key`."""
    group = parser.add_argument_group("whose signature the model must have")
    group.add_argument("--ca", type=Path, metavar="FILE", help="the authority of the signer's certificate, PEM")
    group.add_argument("--identity", metavar="URI", help="with --ca: the only signer that is accepted")
    group.add_argument("--public-key", type=Path, metavar="FILE", help="in place of --ca: the signer's public key, PEM")


def trust_of(args: argparse.Namespace) -> Trust | None:
    """What the options of `add_trust` demand; None without any.

    Raises:
        ConfigError: they contradict each other.
    """
    if args.ca is not None and args.public_key is not None:
        raise ConfigError("--ca and --public-key: give one of both")
    if args.identity is not None and args.ca is None:
        raise ConfigError("--identity goes with --ca, the authority of the certificate")
    if args.ca is None and args.public_key is None:
        return None
    return Trust(ca=args.ca, identity=args.identity, key=args.public_key)


def _sign_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of the model")
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="the private key, PEM, ECDSA")
    parser.add_argument("--cert", type=Path, metavar="FILE", help="its certificate, PEM; without it, a plain key")
    parser.add_argument(
        "--chain", type=Path, action="append", default=[], metavar="FILE", help="certificates up to the authority"
    )
    parser.add_argument("--name", default="", help="the model's name in the signature; default: that of DIR")
    parser.add_argument("--new-key", action="store_true", help="make the key first, with FILE.pub for who verifies")


def _sign(args: argparse.Namespace) -> int:
    from hybrid_llm.backends.signing.sign import make_signing_key, sign_folder

    if args.new_key:
        if args.cert is not None:
            raise ConfigError("--new-key makes a plain key; `hybrid-llm certs issue` makes one with a certificate")
        print(f"created {args.key} and {make_signing_key(args.key)}")
        note(f"keep {args.key} private; who verifies needs the other one")
    path = sign_folder(args.folder, args.key, args.cert, name=args.name, chain=args.chain)
    print(f"signed: {path}")
    return Exit.OK


SIGN: Final = Command(
    about="Sign a model: DIR/model.sig has the digest of every other file, in the format of OpenSSF model-signing.",
    options=_sign_options,
    run=_sign,
    examples=(
        "hybrid-llm models sign models/smollm2 --key certs/release.key --cert certs/release.pem",
        "hybrid-llm models sign models/smollm2 --key release.key --new-key",
    ),
    codes=(Exit.CONFIG,),
)


def _verify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of the model")
    add_trust(parser)
    add_json(parser)


def _verify(args: argparse.Namespace) -> int:
    from hybrid_llm.backends.signing.verify import verify_folder

    trust = trust_of(args)
    if trust is None:
        raise ConfigError("say whose signature it must have: --ca FILE, or --public-key FILE")
    found = verify_folder(args.folder, trust)
    text = f"{args.folder}: {len(found.files)} files, as {found.signer} signed them"
    output({"folder": str(args.folder), "signer": found.signer, "files": dict(found.files)}, [text], as_json=args.json)
    return Exit.OK


VERIFY_SIGNATURE: Final = Command(
    about="Check that a model is what a trusted signer signed: every file, and no other. No network is used.",
    options=_verify_options,
    run=_verify,
    examples=(
        "hybrid-llm models verify-signature models/smollm2 --ca certs/ca.pem",
        "hybrid-llm models verify-signature models/smollm2 --public-key release.key.pub",
    ),
    codes=(Exit.CONFIG, Exit.SECURITY),
)
