from training.data.files.columns import sort_categories


def test_classes_are_sorted_by_value_where_all_are_integers_else_alphabetically() -> None:
    assert sort_categories({"10", "9", "-1"}) == ("-1", "9", "10")
    assert sort_categories({"b", "10", "9"}) == ("10", "9", "b")
