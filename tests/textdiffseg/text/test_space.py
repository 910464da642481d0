"""What telling labels apart means, on vectors that are drawn rather than encoded."""

import torch

from textdiffseg.text.space import discriminant

WIDTH = 64


def draw(labels: int, phrasings: int, apart: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Known and new phrasings (labels, phrasings, WIDTH): means `apart`, wordings vary along four common directions."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(1, WIDTH, generator=generator) + apart * torch.randn(labels, WIDTH, generator=generator)
    wordings = torch.randn(4, WIDTH, generator=generator)
    shares = torch.randn(2, labels, phrasings, 4, generator=generator)
    return tuple(means[:, None] + shares @ wordings)


def test_labels_lie_at_right_angles_and_their_phrasings_close_together():
    known, new = draw(labels=5, phrasings=8, apart=0.3)
    mapped = known @ discriminant(list(known))
    means = mapped.mean(1)
    assert torch.allclose(means @ means.T, WIDTH * torch.eye(5), atol=0.2)

    def scatter(vectors, around):
        """The distance of phrasings from their label's mean, of that between labels."""
        between = torch.pdist(around).mean()
        return ((vectors - around[:, None]).norm(dim=2).mean() / between).item()

    assert scatter(known, known.mean(1)) > 0.5
    assert scatter(mapped, means) < 0.1
    assert scatter(new @ discriminant(list(known)), means) < 0.4 * scatter(new, known.mean(1))


def test_without_a_second_phrasing_vectors_stay_as_they_are():
    single = draw(labels=3, phrasings=1, apart=1.0)[0]
    assert torch.equal(discriminant(list(single)), torch.eye(WIDTH))


def test_some_labels_may_have_one_phrase_and_one_label_is_enough():
    first, *others = draw(labels=3, phrasings=4, apart=1.0)[0]
    mapping = discriminant([first[:1], *others])
    mapped = torch.stack([(one @ mapping).mean(0) for one in (first[:1], *others)])
    assert torch.allclose(mapped @ mapped.T, WIDTH * torch.eye(3), atol=0.2)
    alone = (first @ discriminant([first])).mean(0)
    assert torch.isclose(alone.norm(), torch.tensor(WIDTH**0.5), rtol=1e-3)


def test_labels_that_words_cannot_tell_apart_are_not_drawn_apart():
    known = draw(labels=3, phrasings=2, apart=1.0)[0]
    same = torch.cat((known, known[:1] + 1e-6))
    mapped = (same @ discriminant(list(same))).mean(1)
    assert mapped.isfinite().all()
    assert (mapped[0] - mapped[3]).norm() < 0.1 * mapped[0].norm()


def test_more_labels_than_dimensions():
    many = draw(labels=WIDTH + 10, phrasings=2, apart=1.0)[0]
    mapped = (many @ discriminant(list(many))).mean(1)
    assert mapped.isfinite().all()
    assert torch.cdist(mapped, mapped).fill_diagonal_(9).min() > 1
