from __future__ import annotations

import math
import pickle
from typing import Any, Dict, Optional, Tuple

import pytest
from pydantic import ValidationError
from typing_extensions import Annotated, Literal

from gluon_compress.validation import (
    ClassNames,
    Count,
    NonEmptyStr,
    OneOf,
    Positive,
    Settings,
    Share,
    Tagged,
    class_names,
    parse,
)

CURVES = {"cubic": 3, "linear": 1}


class Rest(Settings):
    """How long to rest.

    Parameters
    ----------
    hours : float
        Of sleep; see
        the second line.
    algorithm : str
    """

    algorithm: Literal["rest"] = "rest"
    hours: Positive = 8.0


class Walk(Settings):
    algorithm: Literal["walk"] = "walk"
    budget: Dict[str, Positive] = {}


ROWS = {"rest": Rest, "walk": Walk}


class Day(Settings):
    name: NonEmptyStr
    count: Count = 3
    anything: float = 1.0
    flag: bool = False
    share: Share = 0.5
    mode: Literal["cosine", "step"] = "cosine"
    curve: Annotated[str, OneOf(lambda: CURVES)] = "cubic"
    rest: Optional[Rest] = None
    sizes: Tuple[float, ...] = ()
    classes: Optional[ClassNames] = None
    rows: Tuple[Annotated[Any, Tagged("algorithm", lambda: ROWS)], ...] = ()

    def check(self) -> None:
        if self.rest is not None and self.rest.hours > self.count:
            raise self.error("rest.hours", f"up to {self.count}")


def line(changes: dict, source: str = "day.json") -> str:
    with pytest.raises(ValueError, match=".") as caught:
        parse(Day, {"name": "x", **changes}, source)
    assert not isinstance(caught.value, ValidationError)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "place", "allowed"),
    [
        ({"name": ""}, "name is ''", "not empty"),
        ({"name": 3}, "name is 3", "text"),
        ({"count": "3"}, "count is '3'", "a whole number from 1"),
        ({"count": True}, "count is True", "a whole number from 1"),
        ({"count": 2.0}, "count is 2.0", "a whole number from 1"),
        ({"count": 0}, "count is 0", "a whole number from 1"),
        ({"anything": True}, "anything is True", "a number"),
        ({"anything": math.inf}, "anything is inf", "a finite number"),
        ({"share": math.nan}, "share is nan", "a number above 0 to 1"),
        ({"flag": 1}, "flag is 1", "true or false"),
        ({"mode": "poly"}, "mode is 'poly'", "cosine, step"),
        ({"curve": "poly"}, "curve is 'poly'", "cubic, linear"),
        ({"rest": []}, "rest is []", "an object"),
        ({"rest": {"hours": 0}}, "rest.hours is 0", "above 0"),
        ({"rest": {"hours": 9}}, "rest.hours is 9", "up to 3"),
        ({"sizes": 3}, "sizes is 3", "a list"),
        ({"sizes": [1, "2"]}, "sizes[1] is '2'", "a number"),
        ({"classes": ["a", "a"]}, "classes is ['a', 'a']", "distinct names"),
        ({"classes": []}, "classes is []", "distinct names"),
        ({"rows": [{"algorithm": "amc"}]}, "rows[0].algorithm is 'amc'", "rest, walk"),
        ({"rows": [{"algorithm": ["a"]}]}, "rows[0].algorithm is ['a']", "rest, walk"),
        ({"rows": [3]}, "rows[0] is 3", "an object"),
        (
            {
                "rows": [
                    {"algorithm": "rest"},
                    {"algorithm": "walk", "budget": {"m": 0}},
                ]
            },
            "rows[1].budget.m is 0",
            "above 0",
        ),
    ],
)
def test_an_error_names_file_place_value_and_what_is_allowed(changes, place, allowed):
    start, end = line(changes).split("; allowed: ")
    assert start == f"day.json: {place}"
    assert allowed in end


def test_an_unknown_key_is_named_with_the_keys_that_exist():
    message = line({"rest": {"hour": 3}})
    assert message.startswith("day.json: rest.hour: ")
    assert "algorithm, hours" in message


def test_a_key_that_a_dict_does_not_allow_is_an_unknown_key():
    class Weights(Settings):
        losses: Dict[Literal["a", "b"], float] = {}

    with pytest.raises(ValueError, match=r"^losses\.c: no such key; allowed: a, b$"):
        Weights(losses={"c": 1})


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match=r"^day\.json: name: "):
        parse(Day, {}, "day.json")


def test_content_that_is_no_object_is_refused():
    with pytest.raises(ValueError, match="an object"):
        parse(Day, [1, 2], "day.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "x" * 10_000},
        {"sizes": ["y\n" * 5_000]},
        {"z" * 9_000: 1},
        {"sizes": "many " * 1_000},
    ],
)
def test_a_message_is_one_short_line(changes):
    message = line(changes, source="")
    assert "\n" not in message
    assert len(message) <= 300


def test_settings_made_in_python_are_checked_in_the_same_words():
    with pytest.raises(ValueError, match="count is 0; allowed: a whole") as caught:
        Day(name="x", count=0)
    assert not isinstance(caught.value, ValidationError)
    with pytest.raises(ValueError, match=r"^rest\.hours is 0; "):
        Day(name="x", rest={"hours": 0})


def test_settings_cannot_be_changed_but_copied_with_changes():
    day = Day(name="x")
    with pytest.raises(ValueError, match="frozen"):
        day.count = 4
    assert day.replace(count=4) == Day(name="x", count=4)
    assert day == Day(name="x")
    with pytest.raises(ValueError, match="count is -1"):
        day.replace(count=-1)


def test_numbers_stay_as_they_were_given():
    content = {"sizes": [30, 60.5], "rest": {"hours": 2}, "anything": 2}
    content["rows"] = [{"algorithm": "walk", "budget": {"macs": 7}}]
    day = parse(Day, {"name": "x", **content})
    assert type(day.anything) is int
    again = day.to_json()
    assert again["sizes"] == [30, 60.5]
    assert type(again["sizes"][0]) is int
    assert type(again["rows"][0]["budget"]["macs"]) is int
    assert parse(Day, again) == day


def test_settings_survive_pickling():
    day = Day(name="x", rest=Rest(hours=1), rows=(Walk(),))
    assert pickle.loads(pickle.dumps(day)) == day


def test_a_row_added_to_a_registry_is_accepted(monkeypatch):
    class Swim(Settings):
        algorithm: Literal["swim"] = "swim"

    monkeypatch.setitem(ROWS, "swim", Swim)
    assert parse(Day, {"name": "x", "rows": [{"algorithm": "swim"}]}).rows == (Swim(),)


def test_settings_that_ignore_other_keys_may_say_so():
    class Part(Settings):
        model_config = {"extra": "ignore"}
        size: Count

    assert parse(Part, {"size": 3, "other": 1}) == Part(size=3)


def test_other_types_are_parsed_too():
    assert parse(Dict[str, str], {"a": "b"}) == {"a": "b"}
    with pytest.raises(ValueError, match=r"^f: a is 3; allowed: a text"):
        parse(Dict[str, str], {"a": 3}, "f")


def test_json_schema_has_the_docstring_s_descriptions():
    schema = Day.model_json_schema()
    rest = schema["$defs"]["Rest"]
    assert rest["description"] == "How long to rest."
    hours = rest["properties"]["hours"]
    assert hours["description"] == "Of sleep; see the second line."
    assert hours["exclusiveMinimum"] == 0
    assert "description" not in schema["$defs"]["Walk"]["properties"]["budget"]
    assert schema["properties"]["curve"]["enum"] == ["cubic", "linear"]
    tagged = schema["properties"]["rows"]["items"]["anyOf"]
    assert [row["$ref"] for row in tagged] == ["#/$defs/Rest", "#/$defs/Walk"]


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\nb", "\u202egpj", "\ud800", " "])
def test_names_of_classes_are_plain_text(name):
    with pytest.raises(ValueError, match="classes is .*distinct names"):
        WithClasses(classes=["cat", name])
    with pytest.raises(ValueError, match="classes is .*distinct names"):
        class_names(["cat", name])


class WithClasses(Settings):
    classes: ClassNames
