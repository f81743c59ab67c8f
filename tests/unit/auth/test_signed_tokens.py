"""Tests of signed tokens: whose they are, what they cover, and which are refused."""

import base64
import json

import jwt
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from twisted.trial.unittest import SynchronousTestCase

from taskd.auth.caller import Caller, Rate
from taskd.auth.signed_tokens import LEEWAY, MAX_TOKEN, MAX_TRIED
from taskd.errors import NotAllowed
from taskd.model import Grant
from tests.unit.auth.signing import ED25519, NOW, RSA, SECRET, judge, private_pem, public_pem, signed


def encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


class SignedTokenTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.judge = judge(SECRET)

    def reason(self, token: str, judge_=None, now: float = NOW) -> str:
        error = self.assertRaises(NotAllowed, (judge_ or self.judge).verify, token, now)
        if len(token) > 20:
            self.assertNotIn(token, error.message)
        return error.data["reason"]

    def test_a_token_with_only_the_needed_claims_submits_and_covers_every_function(self) -> None:
        caller = self.judge.verify(signed(), NOW)
        self.assertEqual(caller.grant, Grant("alice", "submit"))
        self.assertEqual((caller.name, caller.grant.functions, caller.grant.args), ("alice", None, None))
        self.assertEqual((caller.rate, caller.expires), (None, NOW + 3600))

    def test_a_token_may_set_the_role_functions_arguments_and_limits(self) -> None:
        token = signed(
            role="watch",
            functions=["mail.*"],
            args={"tenant": 7, "tags": ["a"]},
            limits={"rate": "100/min", "waiting": 10, "running": 2, "bytes": 1000},
        )
        caller = self.judge.verify(token, NOW)
        grant = caller.grant
        self.assertEqual(
            structs.replace(grant, args=None), Grant("alice", "watch", 10, 2, 1000, None, ("mail.*",))
        )
        self.assertEqual(caller.rate, Rate(100, 60.0))
        self.assertTrue(caller.grant.covers("mail.send"))
        self.assertFalse(caller.grant.covers("report"))
        fixed = {name: bytes(value) for name, value in (grant.args or {}).items()}
        self.assertEqual(fixed, {"tenant": b"7", "tags": b'["a"]'})

    def test_every_kind_of_key_checks_the_tokens_that_it_has_signed(self) -> None:
        everything = judge(SECRET, public_pem(ED25519), public_pem(RSA))
        for key, algorithm in (SECRET, "HS256"), (private_pem(ED25519), "EdDSA"), (private_pem(RSA), "RS256"):
            self.assertEqual(everything.verify(signed(key, algorithm), NOW).name, "alice")

    def test_the_algorithm_follows_from_the_key_and_not_from_the_token(self) -> None:
        for public in public_pem(RSA), public_pem(ED25519):
            only_public = judge(public)
            # A token whose HS256 secret is the public key itself, which everybody knows.
            head, claims = encoded(b'{"alg":"HS256"}'), encoded(b'{"sub":"eve","exp":9999999999}')
            forged = jwt.api_jws.PyJWS().get_algorithm_by_name("HS256")
            signature = encoded(forged.sign(f"{head}.{claims}".encode(), public))
            self.assertEqual(self.reason(f"{head}.{claims}.{signature}", only_public), "unknown")
        for algorithm in "RS512", "PS256":
            self.assertEqual(
                self.reason(signed(private_pem(RSA), algorithm), judge(public_pem(RSA))), "unknown"
            )
        self.assertEqual(self.reason(signed(SECRET * 2, "HS512"), judge(SECRET * 2)), "unknown")

    def test_a_token_without_a_signature_is_refused(self) -> None:
        self.assertEqual(self.reason(signed(None, "none")), "malformed")
        head, claims, signature = signed().split(".")
        none = encoded(b'{"alg":"none"}')
        self.assertEqual(self.reason(f"{none}.{claims}.{signature}"), "unknown")
        self.assertEqual(self.reason(f"{head}.{claims}.{'A' * len(signature)}"), "unknown")

    def test_a_token_that_is_signed_with_another_key_or_was_changed_is_unknown(self) -> None:
        self.assertEqual(self.reason(signed(b"another secret" * 5)), "unknown")
        head, _, signature = signed().split(".")
        changed = encoded(json.dumps({"sub": "bob", "exp": NOW + 3600}).encode())
        self.assertEqual(self.reason(f"{head}.{changed}.{signature}"), "unknown")

    def test_a_token_ends_at_its_exp_to_the_second(self) -> None:
        token = signed()
        self.judge.verify(token, NOW + 3599.9)
        self.assertEqual(self.reason(token, now=NOW + 3600), "expired")

    def test_the_clock_of_whoever_signs_may_be_ahead_a_little(self) -> None:
        self.judge.verify(signed(nbf=NOW + LEEWAY), NOW)
        self.assertEqual(self.reason(signed(nbf=NOW + LEEWAY + 1)), "unknown")

    def test_an_audience_that_is_asked_for_must_be_named(self) -> None:
        asking = judge(SECRET, audience="tasks")
        for aud in "tasks", ["other", "tasks"]:
            self.assertEqual(asking.verify(signed(aud=aud), NOW).name, "alice")
        for aud in None, "other", ["other"], []:
            self.assertEqual(self.reason(signed(aud=aud), asking), "unknown")
        self.assertEqual(self.judge.verify(signed(aud="whatever"), NOW).name, "alice")

    def test_claims_that_are_not_right_make_a_token_malformed(self) -> None:
        wrong = (
            {"sub": None},
            {"sub": ""},
            {"sub": "x" * 201},
            {"sub": "line\nbreak"},
            {"sub": "token:ci"},
            {"exp": None},
            {"exp": "tomorrow"},
            {"role": "admin"},
            {"functions": "mail.send"},
            {"functions": [""]},
            {"functions": ["mail.[a-z]"]},
            {"args": ["tenant"]},
            {"limits": {"rate": "often"}},
            {"limits": {"rate": "0/s"}},
            {"limits": {"running": 0}},
            {"limits": {"waiting": -1}},
            {"limits": {"cpu": 1}},
        )
        for claims in wrong:
            with self.subTest(claims=claims):
                # PyJWT itself would not sign some of these.
                body = json.dumps(
                    {k: v for k, v in {"sub": "a", "exp": 9e9, **claims}.items() if v is not None}
                )
                token = jwt.api_jws.PyJWS().encode(body.encode(), SECRET, "HS256")
                self.assertEqual(self.reason(token), "malformed")

    def test_a_token_that_needs_an_unknown_extension_is_refused(self) -> None:
        self.assertEqual(self.reason(signed(headers={"crit": ["b64"], "b64": True})), "malformed")

    def test_a_text_that_is_no_token_is_malformed(self) -> None:
        deep = encoded(b"[" * 5000)
        texts = (
            "",
            ".",
            "a.b",
            "a.b.c",
            "ä.b.c",
            "\ud800.b.c",
            "e30.e30.",
            f"{deep}.e30.e30",
            "a" * MAX_TOKEN + ".b.c",
        )
        for text in texts:
            with self.subTest(text=text[:20]):
                self.assertEqual(self.reason(text), "malformed")
        self.assertEqual(self.reason(f"{encoded(b'{}')}.e30.e30"), "malformed")

    def test_claims_that_are_nested_too_deeply_are_refused(self) -> None:
        body = b'{"sub":"a","exp":9e9,"args":{"x":' + b"[" * 2000 + b"]" * 2000 + b"}}"
        token = jwt.api_jws.PyJWS().encode(body, SECRET, "HS256")
        self.assertEqual(self.reason(token), "malformed")

    def test_a_set_of_keys_is_asked_for_the_one_that_the_token_names(self) -> None:
        keys = [{"kty": "oct", "kid": kid, "k": encoded(kid.encode() * 40)} for kid in ("old", "new")]
        both = judge(json.dumps({"keys": keys}).encode())
        for kid in "old", "new":
            self.assertEqual(both.verify(signed(kid.encode() * 40, headers={"kid": kid}), NOW).name, "alice")
            self.assertEqual(both.verify(signed(kid.encode() * 40), NOW).name, "alice")
        self.assertEqual(self.reason(signed(b"new" * 40, headers={"kid": "old"}), both), "unknown")
        self.assertEqual(self.reason(signed(b"new" * 40, headers={"kid": "other"}), both), "unknown")

    def test_a_token_that_may_be_of_too_many_keys_must_name_its_own(self) -> None:
        names = [f"key {number}" for number in range(MAX_TRIED + 1)]
        keys = [{"kty": "oct", "kid": name, "k": encoded(name.encode() * 10)} for name in names]
        last = names[-1]
        many = judge(json.dumps({"keys": keys}).encode())
        few = judge(json.dumps({"keys": keys[1:]}).encode())
        token = signed(last.encode() * 10)
        self.assertEqual(few.verify(token, NOW).name, "alice")
        self.assertEqual(self.reason(token, many), "unknown")
        self.assertRaisesRegex(NotAllowed, "any of 11 keys.*must name its key", many.verify, token, NOW)
        named = signed(last.encode() * 10, headers={"kid": last})
        self.assertEqual(many.verify(named, NOW).name, "alice")

    def test_a_caller_is_valid_as_long_as_its_key_is_there(self) -> None:
        caller = self.judge.verify(signed(), NOW)
        self.assertTrue(judge(SECRET, public_pem(RSA)).is_valid(caller))
        self.assertFalse(judge(public_pem(RSA)).is_valid(caller))

    @given(st.text())
    def test_any_text_is_refused_as_one_that_is_not_allowed(self, text: str) -> None:
        self.reason(text)

    @given(st.tuples(st.binary(), st.binary(), st.binary()))
    def test_any_three_parts_are_refused_as_not_allowed(self, parts: tuple[bytes, bytes, bytes]) -> None:
        self.reason(".".join(map(encoded, parts)))

    @given(
        st.sampled_from(["HS256", "none", "EdDSA", "RS256", 1, None]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ),
    )
    def test_any_head_is_refused_as_not_allowed(self, algorithm: object, more: object) -> None:
        head = more if isinstance(more, dict) else {"kid": more}
        everything = judge(SECRET, public_pem(ED25519), public_pem(RSA))
        self.reason(
            ".".join([encoded(json.dumps({**head, "alg": algorithm}).encode()), "e30", "e30"]), everything
        )

    @settings(max_examples=200)
    @given(
        st.binary()
        | st.fixed_dictionaries(
            {},
            optional={
                name: st.none()
                | st.booleans()
                | st.floats()
                | st.text()
                | st.integers()
                | st.lists(st.text())
                | st.dictionaries(st.sampled_from(["rate", "waiting", "x"]), st.integers() | st.text())
                for name in ("sub", "exp", "nbf", "aud", "role", "functions", "args", "limits", "iss")
            },
        ).map(lambda claims: json.dumps({"sub": "alice", "exp": 9e9, **claims}).encode())
    )
    def test_any_signed_claims_give_a_caller_or_are_refused_as_not_allowed(self, claims: bytes) -> None:
        token = jwt.api_jws.PyJWS().encode(claims, SECRET, "HS256")
        try:
            self.assertIsInstance(self.judge.verify(token, NOW), Caller)
        except NotAllowed as error:
            self.assertIn(error.data["reason"], ("malformed", "expired", "unknown"))
