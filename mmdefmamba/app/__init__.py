"""The page of tools/app.py, which shows in a browser what a trained DefMamba does. It runs on this machine only.

Only :mod:`mmdefmamba.app.gradio_page` imports Gradio: ``pip install 'mmdefmamba[app]'``.
"""
