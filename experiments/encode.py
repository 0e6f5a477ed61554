"""Features of rows from a trained run: the posterior means of their latents."""

from __future__ import annotations

import numpy as np

from experiments.output import write_arrays, write_picture
from experiments.show.latent import scatter
from experiments.trained import load_trained
from experiments.use import Side, chosen, place_of, title_of
from zoo.decoding import latent_shapes
from zoo.latent_space import encode as features_of


def encode(
    run: str,
    *,
    rows: Side = "test",
    num_rows: int | None = None,
    num_samples: int = 100,
    infer_steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | None = None,
) -> dict[str, np.ndarray]:
    """Features of rows, E[z | x], to features.npy, with their labels and a picture.

    The latents of a row stand side by side, the top layer first. The picture shows two latents as
    they are, and of more their first two principal components, coloured by label.

    Args:
        run: the folder of a run.
        rows: test, or train for the rows that were trained on.
        num_rows: rows that are encoded, chosen at random; by default all.
        num_samples: draws for means of q that are not known exactly.
        infer_steps: steps that fit a table's row to each test row; by default those of the run.
        seed: of the choice of rows and of the draws.
        device: auto (CUDA where there is one), cpu or cuda.
        out: a folder for features.npy, labels.npy, rows.npy and encode.png; the run's own by
            default.

    Returns:
        ``features`` (N, d), ``rows`` (N,), the places of the rows in their set, and ``labels``
        (N,) where there are any.

    Raises:
        ValueError: no run there; no continuous latents; counts out of range.
    """
    trained = load_trained(run, device)
    place = place_of(trained, out)
    part = chosen(trained, rows, num_rows, seed, infer_steps)
    options = {"num_samples": num_samples, "seed": seed}
    features = features_of(trained.model, part.guide, part.data, **options).cpu()
    arrays = {"features": features.numpy(), "rows": part.index.numpy()}
    if part.data.labels is not None:
        arrays["labels"] = part.data.labels.cpu().numpy()
    shapes = latent_shapes(trained.model, next(part.data.batches(1)).to(trained.device))
    sizes = ", ".join(f"{name} {shape.numel()}" for name, shape in shapes.items())
    print(f"{features.shape[1]} features of {part.words} (posterior means: {sizes})")
    for name, array in arrays.items():
        write_arrays(place / f"{name}.npy", {name: array})
        print(f"  {place / name}.npy")
    title = title_of(trained, f"E[z | x] of {part.words}")
    write_picture(place / "encode.png", scatter(features, part.data.labels, title))
    print(f"  {place / 'encode.png'}")
    return arrays
