"""Pages that are shown outside the app: sign in, and what is refused. No script in them."""

from __future__ import annotations

import html

_PAGE = """<!DOCTYPE html>
<html lang="en" class="login">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - Stratascope</title>
<link rel="icon" href="/_favicon.ico">
<link rel="stylesheet" href="/assets/css/app.css">
<link rel="stylesheet" href="/assets/css/controls.css">
<link rel="stylesheet" href="/assets/css/layout.css">
<link rel="stylesheet" href="/assets/css/panels.css">
<link rel="stylesheet" href="/assets/css/login.css">
</head>
<body>
<main class="login-card">
<div class="brand-group"><span class="brand-mark" aria-hidden="true"></span>
<span class="brand">Stratascope</span></div>
{body}
</main>
</body>
</html>
"""

_FORM = """<h1 class="login-title">Sign in</h1>
{said}
<form method="post" action="/login" class="login-form">
<input type="hidden" name="next" value="{target}">
<label for="name">User</label>
<input id="name" name="name" autocomplete="username" autocapitalize="none" spellcheck="false"
 maxlength="64" required{focus_name} value="{name}">
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password"
 maxlength="1024" required{focus_password}>
<button type="submit" class="button button--primary">Sign in</button>
</form>
"""

#: The files that these pages need; all else wants a login.
OPEN_ASSETS = (
    *(f"/assets/css/{name}.css" for name in ("app", "controls", "layout", "panels", "login")),
    *(
        f"/assets/fonts/{name}-wght-normal.woff2"
        for name in ("inter-latin", "inter-latin-ext", "jetbrains-mono-latin")
    ),
)


def page(title: str, body: str) -> str:
    """A page around a body, which is HTML."""
    return _PAGE.format(title=html.escape(title), body=body)


def sign_in(target: str, *, name: str = "", problem: str = "") -> str:
    """The form to sign in with.

    Args:
        target: Where to go then.
        name: The user's name as it was typed.
        problem: Why it has to be tried again.
    """
    said = (
        f'<div class="alert alert--error" role="alert"><span class="alert-title">'
        f"{html.escape(problem)}</span></div>"
        if problem
        else ""
    )
    form = _FORM.format(
        said=said,
        target=html.escape(target, quote=True),
        name=html.escape(name, quote=True),
        focus_name="" if name else " autofocus",
        focus_password=" autofocus" if name else "",
    )
    return page("Sign in", form)
