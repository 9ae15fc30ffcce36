"""The model card of a bundle: what it holds, what it was measured to do, how to use it."""

from __future__ import annotations

from offramp.report.terminal import markdown_table
from offramp.schema.results import Results, TaskResult


def model_card(results: Results) -> str:
    """Markdown with the numbers of a run."""
    sentences = "\n".join(_sentences(name, task) for name, task in results.tasks.items())
    first = next(iter(results.tasks))
    return f"""# Bundle: {results.encoder.name} with {len(results.tasks)} task(s)

One frozen encoder ({results.encoder.params:,} parameters, SHA-256 `{results.encoder.sha256[:16]}`), one head per task and exit.

{sentences}

{markdown_table(results)}

`heads.safetensors` holds the heads of all exits, fitted with the first seed; `examples.safetensors` up to 16 raw test windows per
task, for comparing an exported graph with the bundle; `reference.safetensors` numbers of held-out windows, for finding drift. Remove these
files before you pass the bundle on if the data is not public.

```python
import offramp

predictor = offramp.load("bundle")
predictions = predictor.predict(windows, tasks=["{first}"])
```
"""


def _sentences(name: str, task: TaskResult) -> str:
    """What to expect of a task, of its routed policy where it has one, and what to beware of."""
    lines = [f"- **{name}**: {task.sentence}"]
    if task.policies is not None:
        lines += [f"  - {text}" for text in (task.policies.sentence, *task.policies.warnings) if text]
    return "\n".join(lines)
