"""The model card of a bundle: what it holds, what it was measured to do, how to use it."""

from __future__ import annotations

from offramp.report.terminal import markdown_table
from offramp.results import Results


def model_card(results: Results) -> str:
    """Markdown with the numbers of a run."""
    sentences = "\n".join(f"- **{name}**: {task.sentence}" for name, task in results.tasks.items())
    first = next(iter(results.tasks))
    return f"""# Bundle: {results.encoder.name} with {len(results.tasks)} task(s)

One frozen encoder ({results.encoder.params:,} parameters, SHA-256 `{results.encoder.sha256[:16]}`), one head per task and exit.

{sentences}

{markdown_table(results)}

`heads.safetensors` holds the heads of all exits, fitted with the first seed; `examples.safetensors` up to 16 raw test windows per
task, for comparing an exported graph with the bundle. Remove that file before you pass the bundle on if the data is not public.

```python
import offramp

predictor = offramp.load("bundle")
predictions = predictor.predict(windows, tasks=["{first}"])
```
"""
