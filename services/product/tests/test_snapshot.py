"""The last known list on disk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from product import snapshot
from product.items import Item
from product.snapshot import Listing

pytestmark = pytest.mark.unit

numbers = st.integers(1, 10**12)
some_items = st.builds(Item, numbers, st.text(st.characters(codec="utf-8")), st.booleans(), numbers, numbers)
listings = st.builds(
    Listing, st.lists(some_items, max_size=5).map(tuple), st.text("0123456789abcdef"), st.floats(0, 4e9)
)


@given(listing=listings)
def test_a_list_survives_being_saved_and_loaded(tmp_path_factory, listing):
    path = tmp_path_factory.getbasetemp() / "made-on-demand" / "list.json"
    snapshot.save(path, listing)
    assert snapshot.load(path) == listing
    assert [file.name for file in path.parent.iterdir()] == ["list.json"]


def test_nothing_saved_is_nothing_known(tmp_path):
    assert snapshot.load(tmp_path / "list.json") is None


def test_every_cut_of_the_file_is_told_from_a_list(tmp_path):
    path = tmp_path / "list.json"
    snapshot.save(path, Listing((Item(1, "Sée", False, 1, 1),), "ab", 1.0))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError):
            snapshot.load(path)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"items": []}',
        '{"items": [], "token": 1, "as_of": 1}',
        '{"items": [7], "token": "", "as_of": 1}',
    ],
)
def test_other_json_is_not_taken_for_a_list(tmp_path, text):
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(ValueError):
        snapshot.load(path)


def test_a_failed_save_leaves_no_litter(tmp_path):
    path = tmp_path / "list.json"
    path.mkdir()
    with pytest.raises(OSError):
        snapshot.save(path, Listing((), "", 0.0))
    assert list(tmp_path.iterdir()) == [path]
