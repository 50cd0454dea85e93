"""Whatever is done to rows of the log is found: altered, dropped, swapped, inserted, cut off at the end."""

import base64
import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from deployments.access.audit.chain import (
    CONTENT_FIELDS,
    GENESIS,
    AuditRow,
    Head,
    compute_hash,
    make_head,
    verify_lines,
    verify_rows,
)
from deployments.access.audit.event import AuditEvent, canonicalize, clean_text, clean_value, describe_spec
from deployments.access.audit.key import AuditSigner, PublicKeys
from training.errors import UserError

KEY = Ed25519PrivateKey.generate()
SIGNER, KEYS = AuditSigner(KEY), PublicKeys([KEY.public_key()])
EVENT = AuditEvent("ann@machine", "uid 1000", "deploy", "flowers", "succeeded", "flowers/1", None, {"version": 1})


def make_rows(count: int, signer: AuditSigner = SIGNER) -> list[AuditRow]:
    rows: list[AuditRow] = []
    for sequence in range(1, count + 1):
        content = {"sequence": sequence, "time": f"2026-11-28T00:00:{sequence:02}.000000Z", "signer": signer.id}
        content |= replace(EVENT, message=f"number {sequence}").to_json()
        previous = rows[-1].hash if rows else GENESIS
        hash_ = compute_hash(previous, content)
        rows.append(AuditRow(content, previous, hash_, signer.sign(sequence, hash_)))
    return rows


ROWS = make_rows(8)
HEAD = make_head(ROWS[-1])
LINES = [row.to_line() for row in ROWS]


def test_a_log_that_nobody_touched_verifies_with_the_head_that_was_kept() -> None:
    verification = verify_rows(ROWS, KEYS, [HEAD, make_head(ROWS[3])])

    assert verification.problems == ()
    assert (verification.rows, verification.head) == (8, HEAD)
    assert verify_lines(LINES, KEYS, [Head.parse(json.dumps(vars(HEAD)))]) == verification


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@given(index=st.integers(0, 7), name=st.sampled_from(CONTENT_FIELDS), value=JSON)
def test_an_altered_field_is_found_in_its_row(index: int, name: str, value: Any) -> None:
    if canonicalize(value) == canonicalize(ROWS[index].content[name]) or name == "sequence":
        return
    rows = list(ROWS)
    rows[index] = replace(rows[index], content=rows[index].content | {name: value})

    (problem,) = verify_rows(rows, KEYS, [HEAD]).problems

    assert problem.row == index + 1
    assert problem.message == f"row {index + 1} was altered: it has not the hash of its content"


@given(index=st.integers(0, 7), name=st.sampled_from(["previous_hash", "hash", "signature"]), data=st.data())
def test_an_altered_link_or_signature_is_found_in_its_row(index: int, name: str, data: st.DataObject) -> None:
    value = getattr(ROWS[index], name)
    place = data.draw(st.integers(0, len(value) - 1))
    character = data.draw(st.characters(codec="ascii", exclude_characters=value[place]))
    rows = list(ROWS)
    rows[index] = replace(rows[index], **{name: value[:place] + character + value[place + 1 :]})

    problems = verify_rows(rows, KEYS, [HEAD]).problems

    assert problems[0].row == index + 1


@given(index=st.integers(0, 7), count=st.integers(1, 8))
def test_dropped_rows_are_found_and_named(index: int, count: int) -> None:
    rows = ROWS[:index] + ROWS[index + count :]
    last = min(index + count, 8)

    problems = verify_rows(rows, KEYS, [HEAD]).problems

    assert problems[0].row == index + 1
    named = f"row {index + 1} is missing" if last == index + 1 else f"rows {index + 1} to {last} are missing"
    assert problems[0].message.startswith(named)


@given(first=st.integers(0, 7), second=st.integers(0, 7))
def test_swapped_contents_and_swapped_numbers_are_found(first: int, second: int) -> None:
    if first == second:
        return
    moved = list(ROWS)
    moved[first], moved[second] = moved[second], moved[first]
    assert verify_rows(moved, KEYS, [HEAD]).problems
    assert verify_lines([row.to_line() for row in moved], KEYS, [HEAD]).problems

    renumbered = copy.deepcopy(moved)
    for index in (first, second):
        renumbered[index].content["sequence"] = index + 1
    assert {problem.row for problem in verify_rows(renumbered, KEYS, [HEAD]).problems} >= {first + 1, second + 1}


@given(index=st.integers(0, 8), copied=st.integers(0, 7))
def test_an_inserted_row_is_found(index: int, copied: int) -> None:
    doubled = [*ROWS[:index], ROWS[copied], *ROWS[index:]]
    assert verify_rows(doubled, KEYS, [HEAD]).problems

    renumbered = copy.deepcopy(doubled)
    for number, row in enumerate(renumbered, 1):
        row.content["sequence"] = number
    assert verify_rows(renumbered, KEYS, [HEAD]).problems


@given(index=st.integers(0, 7), place=st.integers(0, 2000), character=st.characters())
def test_any_other_character_in_an_export_is_found(index: int, place: int, character: str) -> None:
    line = LINES[index]
    place %= len(line)
    altered = line[:place] + character + line[place + 1 :]
    if altered == line:
        return

    assert verify_lines([*LINES[:index], altered, *LINES[index + 1 :]], KEYS, [HEAD]).problems


@pytest.mark.parametrize("kept", [1, 7])
def test_without_a_kept_head_a_log_that_was_cut_verifies_which_is_why_heads_are_kept(kept: int) -> None:
    assert verify_rows(ROWS[:kept], KEYS).problems == ()
    (problem,) = verify_rows(ROWS[:kept], KEYS, [HEAD]).problems
    assert problem.message.endswith(f"the log ends with row {kept}, and a kept head says that there was row 8")


def test_a_log_that_was_written_anew_with_the_key_is_found_by_a_head_that_was_kept_elsewhere() -> None:
    forged = make_rows(8)
    forged[2:] = []
    for sequence in range(3, 9):
        content = ROWS[sequence - 1].content | {"actor": "nobody"}
        hash_ = compute_hash(forged[-1].hash, content)
        forged.append(AuditRow(content, forged[-1].hash, hash_, SIGNER.sign(sequence, hash_)))

    assert verify_rows(forged, KEYS).problems == ()
    assert [problem.row for problem in verify_rows(forged, KEYS, [make_head(ROWS[4])]).problems] == [5]


def test_rows_of_another_key_and_forged_heads_are_not_trusted() -> None:
    other = AuditSigner(Ed25519PrivateKey.generate())
    problems = verify_rows(make_rows(2, other), KEYS).problems
    assert [problem.row for problem in problems] == [1, 2]
    assert f"signed by the key {other.id}, which is not trusted" in problems[0].message

    forged = replace(make_head(ROWS[3]), sequence=5)
    (problem,) = verify_rows(ROWS, KEYS, [forged]).problems
    assert problem.message == "the head of row 5 has a signature that is not its signer's"


def test_a_signature_has_one_form_only() -> None:
    last = ROWS[0].signature[-3]
    content = base64.b64decode(ROWS[0].signature)
    same = [f"{ROWS[0].signature[:-3]}{each}==" for each in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"]
    same = [each for each in same if each[-3] != last and base64.b64decode(each) == content]
    assert same
    for signature in same:
        rows = [replace(ROWS[0], signature=signature), *ROWS[1:]]
        assert verify_rows(rows, KEYS).problems[0].message == "row 1 has a signature that was written in another form"


@pytest.mark.parametrize("line", ["", "{", "[]", '{"sequence": 1}', LINES[0].replace(":1,", ":1.0,"), LINES[0] + " "])
def test_a_line_that_is_no_row_is_named_by_its_number(line: str) -> None:
    problems = verify_lines([LINES[0], line], KEYS).problems

    assert problems[0].message.startswith("line 2 is no row")


def test_what_somebody_else_wrote_is_made_safe_and_exact() -> None:
    assert clean_text("a\x1b[31m\nb\x00") == "a\ufffd[31m b\ufffd"
    assert clean_text("postgresql://u:secret@host/db") == "postgresql://u:***@host/db"
    assert len(clean_text("x" * 5000)) == 1000
    assert clean_value({"cpus": 0.1, "list": (1, True, None, "\ud800")}) == {
        "cpus": "0.1",
        "list": [1, True, None, "\ufffd"],
    }
    with pytest.raises(TypeError, match="bytes is no JSON"):
        clean_value({"body": b"x"})
    large = replace(EVENT, after={"sha256": "digest", "spec": "x " * 500, "more": ["y" * 900] * 9}).to_json()
    assert large["after"]["sha256"] == "digest"
    assert large["after"]["omitted_bytes"] > 4096


def test_a_deployment_is_described_without_the_examples_of_its_signatures() -> None:
    spec = '{"endpoint":{"name":"p","signatures":{"m":{"example":"a row of somebody"}}},"scale":{"cpus":0.5}}'

    described = describe_spec(spec)

    assert described["spec"] == {"endpoint": {"name": "p"}, "scale": {"cpus": 0.5}}
    assert len(described["sha256"]) == 64
    assert describe_spec(None) is None


def test_a_key_is_made_once_for_its_owner_only_and_its_public_half_lies_beside_it(tmp_path: Path) -> None:
    signer = AuditSigner.open(tmp_path)

    assert AuditSigner.open(tmp_path).id == signer.id
    assert (tmp_path / "secrets" / "audit_key").stat().st_mode & 0o777 == 0o600
    public = tmp_path / "secrets" / "audit_key.pub"
    assert verify_rows(make_rows(2, signer), PublicKeys.load(public)).problems == ()
    other = AuditSigner(Ed25519PrivateKey.generate())
    public.write_text(public.read_text() + "another machine's\n" + other.public_key)
    assert verify_rows(make_rows(2, other), PublicKeys.load(public)).problems == ()


def test_a_key_that_is_none_is_refused_by_its_file(tmp_path: Path) -> None:
    AuditSigner.open(tmp_path)
    (tmp_path / "secrets" / "audit_key").write_text("no key")
    with pytest.raises(UserError, match=r"audit_key is no Ed25519 key in PEM; restore it"):
        AuditSigner.open(tmp_path)
    (tmp_path / "empty.pub").write_text("no key")
    with pytest.raises(UserError, match=r"empty.pub holds no Ed25519 public key"):
        PublicKeys.load(tmp_path / "empty.pub")
    with pytest.raises(UserError, match=r"gone.pub cannot be read: No such file"):
        PublicKeys.load(tmp_path / "gone.pub")
