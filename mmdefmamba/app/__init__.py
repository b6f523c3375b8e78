"""The page of tools/app.py: see what a trained DefMamba does, in a browser, on this machine alone.

Gradio is imported by :mod:`mmdefmamba.app.page` only: ``pip install -e '.[app]'``.
"""
