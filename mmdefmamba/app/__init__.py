"""The page of tools/app.py: see what a trained DefMamba does, in a browser, on this machine alone.

Gradio is imported by :mod:`mmdefmamba.app.gradio_page` only: ``pip install -e '.[app]'``.
"""
