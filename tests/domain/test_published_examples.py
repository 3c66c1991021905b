"""What exchanges and libraries publish, recomputed from the same fills."""

import pytest

from tests.domain.published_examples import PAGE, Example, Published, figures, load, render


@pytest.mark.parametrize(
    ("example", "published"),
    [
        pytest.param(example, published, id=f"{example.id}-{published.figure}-{published.after or 'end'}")
        for example, published in figures()
    ],
)
def test_the_published_figure_is_ours(example: Example, published: Published) -> None:
    assert abs(example.compute(published) - published.value) <= published.within


def test_every_tolerance_says_why() -> None:
    assert [example.id for example, published in figures() if bool(published.within) != bool(published.because)] == []


def test_no_tolerance_hides_a_wrong_figure() -> None:
    assert [example.id for example, published in figures() if published.within * 20 > abs(published.value)] == []


def test_every_example_has_a_name_of_its_own_and_a_source() -> None:
    examples = load()

    assert len({example.id for example in examples}) == len(examples) >= 25
    assert all(example.source.startswith("https://") for example in examples)


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m tests.domain.published_examples"
