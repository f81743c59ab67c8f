"""The OpenAPI document: what it says of operations, types and functions, and that its references hold."""

import json
from typing import Literal

import jsonschema_rs
from msgspec import Raw
from twisted.trial.unittest import SynchronousTestCase

from taskd.durable.rows import RowCheck
from taskd.errors import InvalidParams
from taskd.functions.durability import Durability
from taskd.functions.registry import Registry
from taskd.web.api.argument_schemas import component_name
from taskd.web.api.openapi import openapi


def mark(
    number: int, names: list[str] | None = None, *, paper: Literal["A4", "A5"] = "A4", **more: float
) -> None:
    """Mark a number."""


def finish(batch: str, done: int, failed: int, cancelled: int, total: int) -> None: ...


def named(*, n: int) -> None: ...


def many(first, *rest: bool) -> None: ...


def nothing() -> None: ...


def registered():
    registry = Registry()
    for function in (mark, finish, named, many, nothing):
        registry.add(function)
    registry.add(lambda: None, name="a-b é/c")
    registry.add(mark, name="once", durable=Durability(once=True))
    return [each.describe() for each in registry]


ARGUMENTS = (
    *(b"[]", b"{}", b"[1]", b'["1"]', b"[1,[],2]", b'[1,["a"]]', b"[1,[1]]", b"[1.5]", b"[true,true,false]"),
    *(b'{"number":1}', b'{"number":1,"paper":"A5"}', b'{"number":1,"paper":"A6"}', b'{"number":1,"x":0.5}'),
    *(b'{"number":1,"x":"y"}', b'{"n":1}', b'{"n":null}', b'{"first":{}}', b'[{"a":1}]', b'[null,1]'),
    b'{"batch":"","done":0,"failed":0,"cancelled":0,"total":0}',
)  # fmt: skip


class OpenApiTests(SynchronousTestCase):
    def setUp(self):
        self.functions = registered()
        self.document = json.loads(json.dumps(openapi(self.functions)))
        self.schemas = self.document["components"]["schemas"]

    def accepts(self, name, value):
        schema = {"$ref": f"#/components/schemas/{name}", "components": self.document["components"]}
        return jsonschema_rs.validator_for(schema).is_valid(value)

    def test_every_reference_is_to_something_in_the_document(self):
        text = json.dumps(self.document)
        for part in text.split('"#/')[1:]:
            where = self.document
            for step in part.split('"')[0].split("/"):
                where = where[step]

    def test_arguments_are_valid_if_the_server_would_store_them(self):
        for function in self.functions:
            check = RowCheck(function.parameters)
            for text in ARGUMENTS:
                try:
                    check.check(Raw(text), "args")
                    is_taken = True
                except InvalidParams:
                    is_taken = False
                name = f"Arguments.{component_name(function.name)}"
                self.assertIs(self.accepts(name, json.loads(text)), is_taken, (function.name, text))

    def test_a_function_with_any_name_has_components_with_names_that_are_allowed(self):
        self.assertEqual(component_name("a-b é/c"), "a-2d-b-20--e9--2f-c")
        self.assertEqual(
            self.schemas["Task.a-2d-b-20--e9--2f-c"]["properties"]["function"]["const"], "a-b é/c"
        )
        for name in self.schemas:
            self.assertRegex(name, r"^[A-Za-z0-9._-]+$")

    def test_a_request_for_a_task_names_its_function_and_has_what_that_needs(self):
        for value in (
            {"function": "mark", "args": [1]},
            {"function": "mark", "args": [1], "options": {"delay": 5, "key": "a", "retries": 3}},
            {"function": "nothing"},
            {"function": "nothing", "args": None},
            {"function": "once", "args": [1], "options": {"retries": 0}},
        ):
            self.assertTrue(self.accepts(f"Task.{value['function']}", value), value)
        for value in (
            {"function": "mark"},
            {"function": "many", "args": None},
            {"function": "nothing", "args": [1]},
            {"function": "nothing", "token": "x"},
            {"function": "nothing", "options": {"until": 1}},
            {"function": "nothing", "options": {"delay": 1, "at": "2026-12-24T18:00:00Z"}},
            {"function": "once", "args": [1], "options": {"retries": 1}},
        ):
            self.assertFalse(self.accepts(f"Task.{value['function']}", value), value)

    def test_a_request_for_a_batch_has_a_list_and_perhaps_a_function_that_takes_its_counts(self):
        good = {"function": "mark", "args": [[1], {"number": 2}], "then": "finish"}
        self.assertTrue(self.accepts("Batch.mark", good))
        self.assertTrue(self.accepts("Batch.mark", {**good, "then": None, "args": []}))
        for wrong in ({"args": [1]}, {"then": "mark"}, {"options": {"key": "a"}}):
            self.assertFalse(self.accepts("Batch.mark", {**good, **wrong}), wrong)

    def test_the_body_of_a_request_is_one_for_any_function_told_apart_by_its_name(self):
        content = self.document["paths"]["/batches"]["post"]["requestBody"]["content"]
        self.assertEqual(set(content), {"application/json", "text/csv"})
        schema = content["application/json"]["schema"]
        self.assertEqual(len(schema["oneOf"]), len(self.functions))
        self.assertEqual(schema["discriminator"]["mapping"]["mark"], "#/components/schemas/Batch.mark")

    def test_every_operation_has_a_name_of_its_own_and_says_what_its_path_takes(self):
        operations = [each for path in self.document["paths"].values() for each in path.values()]
        names = [each["operationId"] for each in operations]
        self.assertEqual(len(set(names)), len(names))
        for path, methods in self.document["paths"].items():
            for each in methods.values():
                in_path = [one["name"] for one in each["parameters"] if one["in"] == "path"]
                self.assertEqual([f"{{{name}}}" in path for name in in_path], [True] * path.count("{"))

    def test_values_in_a_query_are_never_null(self):
        [state] = [
            each for each in self.document["paths"]["/tasks"]["get"]["parameters"] if each["name"] == "state"
        ]
        self.assertIn("scheduled", state["schema"]["enum"])
        self.assertNotIn("null", json.dumps(state["schema"]))

    def test_descriptions_have_no_indentation_of_the_code(self):
        for name, schema in self.schemas.items():
            self.assertNotIn("\n  ", schema.get("description", ""), name)
