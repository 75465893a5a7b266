"""The page at `/`: the endpoints from OpenAPI, and a form to report an image; it fetches nothing from elsewhere."""

from html import escape

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}"
    "code{background:#eee;padding:.1em .3em}dt{margin-top:1rem}form{border:1px solid #bbb;padding:1rem}"
    "label{display:block;margin:.5rem 0}"
)
_FORM = """
<form action="/v1/reports" method="post" enctype="multipart/form-data">
<label>Images (all views of one study) <input type="file" name="images" multiple required></label>
<label>Indication <input name="indication" maxlength="4000"></label>
<label>Heat maps <select name="evidence"><option value="">none</option><option>png</option></select></label>
<button>Report</button>
</form>
"""


def page(schema: dict, model: str, notice: str) -> str:
    """
    HTML.

    Args:
        schema (`dict`): OpenAPI of the server.
        model (`str`), notice (`str`): Shown at the top.
    """
    endpoints = "".join(
        f"<dt><code>{escape(method.upper())} {escape(path)}</code></dt><dd>{escape(operation.get('summary', ''))}</dd>"
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>otdrg serve</title><style>{_STYLE}</style>'
        f"<h1>otdrg serve</h1><p><strong>{escape(notice)}</strong></p><p>Model: <code>{escape(model)}</code></p>"
        f'{_FORM}<dl>{endpoints}</dl><p>All of it: <a href="/openapi.json">openapi.json</a></p></html>'
    )
