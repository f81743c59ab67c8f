"""Tests of the keys by which signed tokens are checked, and of those that seal stored secrets."""

import json
from pathlib import Path

import jwt
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from taskd.auth.access_config import AccessConfig
from taskd.auth.files import AccessFileError
from taskd.auth.sealing import SealBroken, Sealer
from taskd.auth.signing_keys import parse_keys
from taskd.auth.tokens import hash_of, new_token
from taskd.errors import NotAllowed
from tests.unit.auth.signing import ED25519, NOW, RSA, SECRET, judge, private_pem, public_pem, signed

OKP = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(ED25519.public_key()))
RSA_JWK = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key()))


def key_set(*keys: dict) -> bytes:
    return json.dumps({"keys": keys}).encode()


class SigningKeyTests(SynchronousTestCase):
    def why(self, content: bytes) -> str:
        error = self.assertRaises(AccessFileError, parse_keys, content, "key.pem")
        self.assertTrue(str(error).startswith("key.pem: "))
        return str(error)

    def test_the_algorithm_follows_from_the_key(self) -> None:
        for content, algorithm in (
            (SECRET, "HS256"),
            (public_pem(ED25519), "EdDSA"),
            (public_pem(RSA), "RS256"),
        ):
            [key] = parse_keys(content, "key.pem")
            self.assertEqual(key.algorithm, algorithm)
            self.assertNotIn(SECRET.decode(), repr(key))

    def test_the_line_end_of_a_secret_does_not_count(self) -> None:
        self.assertEqual(judge(SECRET + b"\n").verify(signed(), NOW).name, "alice")

    def test_a_set_has_keys_of_each_kind_and_others_are_ignored(self) -> None:
        others = [{"kty": "EC", "crv": "P-256"}, {**RSA_JWK, "use": "enc"}, {**RSA_JWK, "alg": "PS512"}]
        keys = parse_keys(
            key_set({**OKP, "kid": "a"}, {**RSA_JWK, "kid": "b", "use": "sig"}, *others), "jwks"
        )
        self.assertEqual([(key.algorithm, key.kid) for key in keys], [("EdDSA", "a"), ("RS256", "b")])

    def test_keys_that_cannot_be_used_are_refused_with_what_would_be_right(self) -> None:
        private = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(ED25519))
        wrong = {
            b"short": "a secret has at least 32 bytes, and this one has 5",
            b"": "this one has 0",
            private_pem(ED25519): "this is a private key",
            private_pem(RSA): "openssl pkey -in FILE -pubout",
            b"-----BEGIN CERTIFICATE-----\n": "openssl x509 -in FILE -noout -pubkey",
            public_pem(RSA) + public_pem(ED25519): "more than one key",
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----": "no public key that can be read",
            public_pem(ec.generate_private_key(ec.SECP256R1())): "is Ed25519 (for EdDSA) or RSA (for RS256)",
            public_pem(rsa.generate_private_key(65537, 1024)): "has 2048 to 8192 bits, and this one has 1024",
            b"{": "is a JWKS",
            b'{"keys": 3}': "is a JWKS",
            b'{"x": ' + b"[" * 5000: "is nested too deeply",
            key_set(): "no key that signs tokens",
            key_set(*[OKP] * 101): "there are 101 keys, and may be 100",
            key_set({**private, "kid": "mine"}): "the key 'mine' is private",
            key_set({"kty": "OKP", "crv": "Ed25519"}): "has no x",
            key_set({**OKP, "x": "!"}): "is not base64url",
            key_set({**OKP, "x": "AAAA"}): "32 bytes",
            key_set({**RSA_JWK, "n": "A" * 3000}): "n must be",
            key_set({**RSA_JWK, "n": "_" * 3000}): "at most 8192 bits",
            key_set({"kty": "oct", "k": "AAAA"}): "a secret has at least 32 bytes",
        }
        for content, why in wrong.items():
            with self.subTest(content=content[:40]):
                self.assertIn(why, self.why(content))

    @given(
        st.binary()
        | st.binary().map(lambda rest: b"{" + rest)
        | st.binary().map(lambda rest: b"-----BEGIN PUBLIC KEY-----\n" + rest)
        | st.dictionaries(
            st.sampled_from(["kty", "x", "n", "e", "k", "crv", "kid", "alg", "use"]), st.text()
        ).map(key_set)
        | st.text().map(lambda text: key_set({**OKP, "x": text}, {**RSA_JWK, "e": text}))
    )
    def test_any_content_is_keys_or_refused(self, content: bytes) -> None:
        try:
            self.assertTrue(parse_keys(content, "key.pem"))
        except AccessFileError as error:
            self.assertIn("key.pem", str(error))


class VerifierTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.tokens, self.key = Path(self.mktemp()), Path(self.mktemp())
        self.token = new_token()
        self.write(self.token)
        self.key.write_bytes(SECRET)
        self.verifier = AccessConfig(str(self.tokens), [str(self.key)]).open()

    def write(self, token: str, more: str = "") -> None:
        self.tokens.write_text(f'[tokens.ci]\nhash = "{hash_of(token)}"\n{more}')

    def test_without_files_no_tokens_are_asked_for(self) -> None:
        self.assertIsNone(AccessConfig().open())

    def test_both_kinds_of_tokens_are_accepted(self) -> None:
        self.assertEqual(self.verifier.verify(self.token, NOW).grant.owner, "token:ci")
        self.assertEqual(self.verifier.verify(signed(), NOW).grant.owner, "alice")
        self.assertIn("1 tokens and signed tokens by the keys of", repr(self.verifier))

    def test_a_signed_token_is_malformed_if_there_is_no_key(self) -> None:
        alone = AccessConfig(str(self.tokens)).open()
        error = self.assertRaises(NotAllowed, alone.verify, signed(), NOW)
        self.assertEqual(error.data, {"reason": "malformed"})

    def test_a_token_that_is_revoked_is_not_valid_any_more(self) -> None:
        caller, user = self.verifier.verify(self.token, NOW), self.verifier.verify(signed(), NOW)
        self.assertTrue(self.verifier.is_valid(caller, NOW))
        self.write(new_token())  # the same name and rights, but another token
        self.assertTrue(self.verifier.is_valid(caller, NOW))
        self.verifier.use(self.verifier.read())
        self.assertFalse(self.verifier.is_valid(caller, NOW))
        self.assertTrue(self.verifier.is_valid(user, NOW))
        self.assertFalse(self.verifier.is_valid(user, NOW + 3600))

    def test_a_token_that_gets_other_rights_must_be_shown_again(self) -> None:
        caller = self.verifier.verify(self.token, NOW)
        self.write(self.token, 'role = "watch"')
        self.verifier.use(self.verifier.read())
        self.assertFalse(self.verifier.is_valid(caller, NOW))
        self.assertEqual(self.verifier.verify(self.token, NOW).grant.role, "watch")

    def test_tokens_of_a_key_that_is_taken_away_are_not_valid_any_more(self) -> None:
        user = self.verifier.verify(signed(), NOW)
        self.key.write_bytes(SECRET * 2)
        self.verifier.use(self.verifier.read())
        self.assertFalse(self.verifier.is_valid(user, NOW))

    def test_files_that_are_broken_change_nothing(self) -> None:
        for file in self.tokens, self.key:
            content = file.read_bytes()
            file.write_bytes(b"x")
            self.assertRaises(AccessFileError, self.verifier.read)
            file.write_bytes(content)
        self.assertEqual(self.verifier.verify(self.token, NOW).name, "ci")

    def test_one_key_in_two_files_is_a_mistake(self) -> None:
        config = AccessConfig(None, [str(self.key), str(self.key)])
        self.assertIn("one key is there twice", str(self.assertRaises(AccessFileError, config.open)))

    @given(st.text() | st.text().map(lambda text: "taskd_" + text))
    def test_any_text_is_refused_as_not_allowed(self, text: str) -> None:
        self.assertRaises(NotAllowed, self.verifier.verify, text, NOW)


class SealerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.old, self.new = Fernet.generate_key(), Fernet.generate_key()

    def test_a_sealed_secret_is_opened_and_is_not_visible_before(self) -> None:
        sealer = Sealer.parse(b"# ours\n\n" + self.new, "keys")
        sealed = sealer.seal(b"a password")
        self.assertNotIn(b"password", sealed)
        self.assertEqual(sealer.open(sealed), b"a password")

    def test_the_first_key_seals_and_each_opens(self) -> None:
        sealed = Sealer.parse(self.old, "keys").seal(b"x")
        both, new = Sealer.parse(self.new + b"\n" + self.old, "keys"), Sealer.parse(self.new, "keys")
        self.assertEqual(both.open(sealed), b"x")
        self.assertRaises(SealBroken, new.open, sealed)
        self.assertEqual(new.open(both.seal(b"y")), b"y")

    def test_secrets_are_sealed_again_before_an_old_key_is_taken_away(self) -> None:
        sealed = Sealer.parse(self.old, "keys").seal(b"x")
        again = Sealer.parse(self.new + b"\n" + self.old, "keys").seal_again(sealed)
        self.assertEqual(Sealer.parse(self.new, "keys").open(again), b"x")
        self.assertRaises(SealBroken, Sealer.parse(self.new, "keys").seal_again, sealed)

    def test_a_sealed_secret_that_was_changed_is_not_opened(self) -> None:
        sealer = Sealer.parse(self.new, "keys")
        for sealed in b"", b"gAAAA", sealer.seal(b"x")[:-4] + b"AAAA":
            self.assertRaises(SealBroken, sealer.open, sealed)

    def test_a_file_without_a_key_or_with_a_wrong_one_is_refused_and_not_quoted(self) -> None:
        for content, why in (
            (b"# none", "keys has no key"),
            (self.new + b"\nhunter2", "keys:2: a key is 32 bytes"),
        ):
            error = self.assertRaises(AccessFileError, Sealer.parse, content, "keys")
            self.assertIn(why, str(error))
            self.assertNotIn("hunter2", str(error))
        many = b"\n".join(Fernet.generate_key() for _ in range(101))
        self.assertIn("may have 100", str(self.assertRaises(AccessFileError, Sealer.parse, many, "keys")))

    @given(st.binary())
    def test_any_content_is_keys_or_refused(self, content: bytes) -> None:
        try:
            Sealer.parse(content, "keys")
        except AccessFileError as error:
            self.assertIn("keys", str(error))
