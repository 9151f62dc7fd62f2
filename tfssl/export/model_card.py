"""The model card: what a served encoder is, takes, gives, and how good it is."""

import json

_LOAD = """\
```python
import tensorflow as tf

model = tf.saved_model.load("{version}")  # Keep it while you use its signatures.
embed = model.signatures["serving_default"]
images = [tf.io.read_file(path) for path in ("a.jpg", "b.png")]
found = embed(encoded_images=tf.stack(images))
features = found["features"][found["valid"]]  # (2, {dim}), of the readable ones
```

With TF Serving, from the folder that holds this file:

```sh
docker run -p 8501:8501 -v "$PWD:/models/{name}" -e MODEL_NAME={name} \\
    tensorflow/serving
printf '{{"inputs": {{"encoded_images": [{{"b64": "%s"}}]}}}}' "$(base64 -w0 a.jpg)" |
    curl -d @- http://localhost:8501/v1/models/{name}:predict
```

The server decodes `b64` (standard base64) before the model sees the bytes. For many
images use gRPC, which needs no base64.
"""


def render(encoder, preprocessing, *, name, version, dim, pixels, sections):
    """The card as Markdown text.

    Args:
        encoder: the exported Keras model.
        preprocessing: its `data.Preprocessing`.
        name: model name.
        version: int, the version just written.
        dim: features per image.
        pixels: dtype name of decoded pixels.
        sections: dict of title to a value, a dict, or a list of row dicts.

    Returns:
        str, Markdown.
    """
    size, channels = preprocessing.size, preprocessing.channels
    signatures = [
        {
            "signature": f"`{signature}`",
            "input": f"`{key}`",
            "type": kind,
            "shape": shape,
            "what": what,
        }
        for signature, key, kind, shape, what in (
            ("serving_default", "encoded_images", "string", "(batch,)",
             "JPEG, PNG, BMP, GIF or (from TensorFlow 2.20) WebP files"),
            ("uint8_images", "images", pixels, f"(batch, height, width, {channels})",
             "decoded pixels, any one size"),
            ("float_images", "images", "float32",
             f"(batch, {size}, {size}, {channels})", "resized and normalised"),
        )
    ]  # fmt: skip
    parts = [
        f"# {name}",
        f"Image encoder, {dim} features per image. Latest version: {version}.",
        "## Signatures",
        _rows(signatures),
        f"Each gives `features`, float32 (batch, {dim}). A batch may be empty in "
        "`serving_default` and `uint8_images`.",
        "`serving_default` also gives `valid`, bool (batch,): false for what cannot be "
        "decoded (cut short, no image, more than 100 megapixels), whose features are "
        "zeros. The rest of the batch is answered as ever.",
        "## Use",
        _LOAD.format(name=name, version=version, dim=dim).rstrip(),
        "## Preprocessing",
        "Inside `serving_default` and `uint8_images`; do the same before "
        "`float_images`. Stored in `assets.extra/preprocessing.json`.",
        _pairs(preprocessing.get_config()),
        "## Encoder",
        _pairs(
            {
                "class": type(encoder).__name__,
                "name": encoder.name,
                "parameters": f"{encoder.count_params():,}",
            }
        ),
    ]
    for title, content in sections.items():
        if content:
            parts += [f"## {str(title).replace('_', ' ').capitalize()}", _any(content)]
    return "\n\n".join(parts) + "\n"


def _any(content):
    if isinstance(content, dict):
        return _pairs(content)
    if isinstance(content, list | tuple) and all(isinstance(r, dict) for r in content):
        return _rows(content)
    return str(content)


def _pairs(content):
    return _rows([{"name": key, "value": value} for key, value in content.items()])


def _rows(rows):
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(_cell(c) for c in columns) + " |"]
    lines.append("|" + " --- |" * len(columns))
    for row in rows:
        lines.append("| " + " | ".join(_cell(row.get(c, "")) for c in columns) + " |")
    return "\n".join(lines)


def _cell(value):
    if isinstance(value, float):
        value = f"{value:.6g}"
    elif isinstance(value, dict | list | tuple):
        value = json.dumps(value, default=str)
    return str(value).replace("|", "\\|").replace("\n", " ")
