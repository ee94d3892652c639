"""Tokens, and the keys that sign and verify them."""

from __future__ import annotations

import time
from typing import Any

import jwt as pyjwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from rate_limiter.jwt import Jwt

SECRET = "a secret of at least thirty-two bytes"
OTHER = "another secret of at least 32 bytes!"
RSA = rsa.generate_private_key(65537, 2048)
RSA_OTHER = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
PUBLIC = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
PRIVATE = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
HS = Jwt(secret=SECRET, algorithms=["HS256"])


def later(seconds: float = 86_400) -> int:
    return int(time.time() + seconds)


def token(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **kid: str) -> str:
    return pyjwt.encode({"exp": later()} | claims, key, algorithm, headers=dict(kid) or None)


def jwks_of(**keys: Any) -> dict[str, Any]:
    algorithms = {"rsa": ("RSAAlgorithm", "RS256"), "ec": ("ECAlgorithm", "ES256")}
    found = []
    for kid, key in keys.items():
        name, algorithm = algorithms["rsa" if hasattr(key, "decrypt") else "ec"]
        data = getattr(pyjwt.algorithms, name).to_jwk(key.public_key(), as_dict=True)
        found.append(data | {"kid": kid, "alg": algorithm, "use": "sig"})
    return {"keys": found}
