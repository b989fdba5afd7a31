import subprocess
import sys
from pathlib import Path

import pytest

from kdflow.errors import KdflowError
from kdflow.registry import UnknownNameError
from kdflow.standard_ports import STANDARD_PORTS
from kdflow.taxonomy import load_tree

LEAVES = {
    "cnn/backbone", "cnn/neck", "cnn/head", "cnn/rpn-roi", "transformer/query", "transformer/feature", "transformer/logit",
}


def test_tree_has_two_roots_and_the_seven_nodes_of_the_review():
    tree = load_tree()
    assert [node.id for node in tree.roots] == ["cnn", "transformer"]
    assert {node.id for node in tree.leaves} == LEAVES
    assert len(tree) == 9


def test_every_node_is_defined_and_the_tree_says_whose_words_it_uses():
    tree = load_tree()
    assert all(node.title and len(node.definition) > 40 for node in tree)
    assert all(node.boundaries for node in tree.leaves)
    assert "2508.03317" in tree.source
    assert "ours" in tree.provenance


def test_an_unknown_node_is_refused_with_close_matches():
    with pytest.raises(UnknownNameError, match=r'no taxonomy node "cnn/nek"\. Did you mean "cnn/neck"'):
        load_tree().node("cnn/nek")


def test_children_ancestors_and_depth_follow_the_parents():
    tree = load_tree()
    assert [node.id for node in tree.children("transformer")] == [
        "transformer/query", "transformer/feature", "transformer/logit",
    ]
    assert [node.id for node in tree.ancestors("cnn/rpn-roi")] == ["cnn"]
    assert tree.children("cnn/neck") == ()
    assert (tree.depth("cnn"), tree.depth("cnn/neck")) == (0, 1)
    assert tree.node("cnn/neck").root == "cnn"


def test_a_node_covers_itself_and_what_is_below_it_only():
    tree = load_tree()
    assert tree.covers("cnn", "cnn/neck")
    assert tree.covers("cnn/neck", "cnn/neck")
    assert not tree.covers("cnn/neck", "cnn")
    assert not tree.covers("transformer", "cnn/neck")
    assert not tree.covers("cnn", "no/node")
    with pytest.raises(UnknownNameError):
        tree.covers("cn", "cnn/neck")


def test_nodes_of_the_standard_ports_are_in_the_tree():
    used = {node for port in STANDARD_PORTS.values() for node in port.node if node}
    assert used <= LEAVES
    assert len(used) >= 6


def test_the_tree_is_read_without_torch():

    code = "import sys; from kdflow.taxonomy import load_tree; load_tree(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: 3", 'a list "nodes" is needed'),
        ("- a", 'a list "nodes" is needed'),
        ("nodes: [", "cannot be read"),
        ("nodes: [{id: a, parent: null, title: A, definition: D}]", "exactly the keys"),
        ("nodes: [{id: a/b, parent: a, title: A, definition: D, boundaries: []}]", "must come before it"),
        ("nodes: [{id: b, parent: a, title: A, definition: D, boundaries: []}]", "must come before it"),
        ("nodes: [{id: a/b, parent: null, title: A, definition: D, boundaries: []}]", "must be its parent's id"),
        (
            "nodes: [{id: a, parent: null, title: A, definition: D, boundaries: []}, "
            "{id: a, parent: null, title: A, definition: D, boundaries: []}]",
            "written twice",
        ),
    ],
)
def test_a_broken_tree_is_refused_with_its_file(tmp_path: Path, text: str, message: str):
    file = tmp_path / "tree.yaml"
    file.write_text(text)
    with pytest.raises(KdflowError, match=message) as caught:
        load_tree(file)
    assert str(file) in str(caught.value)
