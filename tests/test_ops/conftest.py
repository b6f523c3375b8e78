import pytest


@pytest.fixture(scope='session')
def quick_interpreter():
    """Triton's interpreter prepares its language anew in every call of a device function, for a millisecond: do it
    only where it is not prepared. Tests that run kernels take ten times as long without this, and are right as well."""
    import triton.language as tl
    from triton.runtime import interpreter

    prepare = interpreter._patch_lang

    def prepare_once(function):
        languages = [module for module in function.__globals__.values() if module is tl or module is tl.core]
        if any(tl.core.is_builtin(language.load) for language in languages):
            return prepare(function)
        return interpreter._LangPatchScope()

    interpreter._patch_lang = prepare_once
    yield
    interpreter._patch_lang = prepare
