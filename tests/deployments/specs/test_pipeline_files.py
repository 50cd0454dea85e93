"""Pipeline files: what YAML and Python may say, and how each mistake is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.specs.pipeline_files import load_pipeline
from training.errors import UserError


def branch(condition: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"kind": "branch", "cases": [{"name": "n", "when": condition, "then": "a"}], "default": "a"} | keys


def write_pipeline(folder: Path, root: Any) -> Path:
    (folder / "p.yaml").write_text(json.dumps({"name": "p", "root": root}))
    return folder / "p.yaml"


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ({"kind": "sequence", "nodes": ["a", "b"]}, "node 2 has no `input_from`"),
        (
            {"kind": "sequence", "nodes": [{"model": "a", "input_from": "text"}]},
            "the first node of a sequence gets the rows of the sequence",
        ),
        ({"kind": "sequence", "nodes": []}, "give at least 1"),
        ({"kind": "ensemble", "members": ["a"]}, "give at least 2"),
        ({"kind": "ensemble", "members": ["a", "b"], "weights": [1]}, "1 weights for 2 members"),
        ({"kind": "ensemble", "members": ["a", "b"], "weights": [0, 0]}, "all weights are 0"),
        ({"kind": "branch", "cases": [], "default": "a"}, "give at least 1"),
        ({"kind": "fan-out", "nodes": {}}, "give at least 1"),
        (
            {"kind": "fan-out", "nodes": {"a": "a"}, "form": "x"},
            "form: no such key; valid keys: input_from, kind, nodes",
        ),
        ({"kind": "loop", "nodes": ["a"]}, "'sequence', 'ensemble', 'branch'"),
        (
            {"kind": "branch", "cases": [{"name": "n", "whn": {}, "then": "a"}], "default": "a"},
            "root.branch.cases.0.whn: no such key; did you mean 'when'? valid keys: name, when, then",
        ),
        (branch({"kind": "label", "labels": ["x"]}), "`label` reads a model's output; set `router`"),
        (branch({"kind": "feature", "feature": "x", "below": 1}, router="b"), "`feature` reads the row; remove"),
        (branch({"kind": "length"}), "give `at_least`, `below` or both"),
        (branch({"kind": "pattern", "pattern": "(?=a)"}), "no pattern of Rust's regex crate"),
    ],
)
def test_an_invalid_pipeline_is_refused_with_its_rule(tmp_path: Path, root: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_pipeline(write_pipeline(tmp_path, root))

    assert message in str(error.value)


@pytest.mark.parametrize(
    ("root", "old", "new"),
    [
        ({"kind": "step", "model": "a"}, "step", "model"),
        ({"kind": "sequence", "steps": ["a"]}, "steps", "nodes"),
        ({"kind": "sequence", "nodes": ["a", {"model": "b", "take": "text"}]}, "take", "input_from"),
        ({"kind": "sequence", "nodes": [{"kind": "sequence", "steps": ["a"]}]}, "steps", "nodes"),
        ({"kind": "ensemble", "members": ["a", "b"], "by": "vote"}, "by", "method"),
        ({"kind": "fan-out", "to": {"a": "a"}}, "to", "nodes"),
        ({"kind": "fan-out", "nodes": {"a": {"kind": "fan-out", "to": {"a": "a"}}}}, "to", "nodes"),
        (branch({"kind": "label"}, by="b"), "by", "router"),
        ({"kind": "branch", "arms": [], "default": "a"}, "arms", "cases"),
        (branch({"kind": "label"}, otherwise="a"), "otherwise", "default"),
        (branch({"kind": "matches", "pattern": "a"}), "matches", "pattern"),
        (branch({"kind": "found"}, router="b"), "found", "count"),
    ],
)
def test_an_old_key_or_kind_is_refused_with_the_new_one(tmp_path: Path, root: Any, old: str, new: str) -> None:
    with pytest.raises(UserError) as error:
        load_pipeline(write_pipeline(tmp_path, root))

    assert f"{old!r} is called {new!r} now" in str(error.value)


def test_python_and_yaml_give_the_same_pipeline(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        """
name: p
root:
  kind: branch
  router: topics
  cases:
    - name: sport
      when: {kind: label, labels: [sport], score_at_least: 0.8}
      then: {kind: ensemble, members: [mood, {model: other-mood, timeout_s: 2}], weights: [2, 1]}
  default:
    kind: fan-out
    nodes: {mood: mood, topic: topics}
"""
    )
    (tmp_path / "p.py").write_text(
        """
from deployments.pipelines import Branch, Case, Ensemble, FanOut, LabelCondition, ModelNode, Pipeline

mood = ModelNode(model="mood")
sport = Ensemble(members=(mood, ModelNode(model="other-mood", timeout_s=2)), weights=(2, 1))
case = Case(name="sport", when=LabelCondition(labels=("sport",), score_at_least=0.8), then=sport)
rest = FanOut(nodes={"mood": mood, "topic": "topics"})
pipeline = Pipeline(name="p", root=Branch(router="topics", cases=(case,), default=rest))
"""
    )

    assert load_pipeline(tmp_path / "p.yaml") == load_pipeline(tmp_path / "p.py")
    assert load_pipeline(tmp_path / "p.py").list_models() == ("topics", "mood", "other-mood")


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").symlink_to("/proc/self/mem")  # no address 0 to read

    with pytest.raises(UserError, match=r"p\.yaml cannot be read: Input/output error; make it readable"):
        load_pipeline(tmp_path / "p.yaml")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "", "neither YAML nor Python"),
        ("p.yaml", "name: [", "is not YAML"),
        ("p.py", "x = 1\n1 / 0", r"cannot be imported: ZeroDivisionError: division by zero \(p.py, line 2\)"),
        ("p.py", "def f(:", r"cannot be imported: SyntaxError: invalid syntax \(p.py, line 1\)"),
        (
            "p.py",
            "from deployments.pipelines import Pipeline\n\nPipeline(name='p', rot='a')",
            r"p.py, line 3: .*rot: no such key; did you mean 'root'\? valid keys: name, summary",
        ),
        ("p.py", "x = 1", "binds no `pipeline`"),
    ],
)
def test_a_file_that_holds_no_pipeline_is_refused_by_name(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)

    with pytest.raises(UserError, match=message) as error:
        load_pipeline(tmp_path / name)

    assert name in str(error.value)
