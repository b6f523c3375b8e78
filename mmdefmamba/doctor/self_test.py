"""Each backend that can run here against the reference in float64: results and gradients of random scans."""

import math
import time

#: Largest difference to the reference, as a share of the largest number of the result or gradient. In float32 a sum of
#: 80 products rounds to about 1e-6; half types round the inputs' gradients and the result themselves.
LIMITS = {'float32': 2e-5, 'bfloat16': 2.0**-7}
#: batch, groups, channels per group, states, tokens: the first are tried on every backend, others while there is time
SHAPES = ((2, 3, 5, 4, 63), (1, 1, 1, 1, 1), (2, 2, 40, 16, 80), (1, 4, 17, 7, 33))
MIN_CASES = 3
#: The same for Triton's interpreter, which takes a second for each.
INTERPRETED = ((1, 2, 3, 2, 5),)


def self_test(report, seconds=20):
    """Test every backend that can run, for ``seconds`` in all."""
    report.step('import the operators')
    import torch

    from .. import ops

    tested = []
    for device in ['cpu'] + ['cuda'] * torch.cuda.is_available():
        u = torch.empty(1, device=device)
        tested += [(name, device) for name in ops.BACKENDS if ops.unavailable_reason(name, u) is None]
    for name, device in tested:
        if report.step(f'scan with {name} on {device}'):
            _test(report, name, device, time.monotonic() + seconds / len(tested))


def _test(report, backend, device, end):
    import torch

    interpreted = backend == 'triton' and device == 'cpu'
    shapes, end = (INTERPRETED, 0) if interpreted else (SHAPES, end)
    cases, largest = 0, {}
    while cases < MIN_CASES or time.monotonic() < end:
        dtype = torch.bfloat16 if cases % 3 == 2 else torch.float32
        for part, error in errors(backend, device, shapes[cases % len(shapes)], dtype, cases).items():
            key = (str(dtype).removeprefix('torch.'), part)
            # not max(): a NaN must win, whatever its place
            largest[key] = error if not error <= largest.get(key, 0.0) else largest[key]
        cases += 1
    worst = {}
    for (name, part), error in largest.items():
        error = math.inf if math.isnan(error) else error
        worst[name] = max(worst.get(name, (0.0, part)), (error, part))
    text = ', '.join(f'{name} {error:.1e} (limit {LIMITS[name]:.1e})' for name, (error, _) in worst.items())
    report.fact(f'{backend} on {device}', f'largest error in {cases} scans: {text}')
    for name, (error, part) in worst.items():
        if not error <= LIMITS[name]:
            report.problem(
                f'backend {backend} on {device} computes wrong numbers: {part} of a scan in {name} differs by '
                f'{error:.1e} of its largest number from the reference, and {LIMITS[name]:.1e} is allowed. Do not '
                "train with it: scan_backend='reference' in the backbone takes the reference, slowly"
            )


def errors(backend, device, shape, dtype, seed):
    """Return part ('y' or the gradient of an input) -> its error relative to its largest number."""
    import torch

    from .. import ops

    batch, groups, channels, states, length = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = dict(u=(batch, groups * channels, length), delta=(batch, groups * channels, length))
    sizes |= dict(A=(groups * channels, states), B=(batch, groups, states, length), C=(batch, groups, states, length))
    sizes |= dict(D=(groups * channels,), delta_bias=(groups * channels,))
    inputs = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
    inputs['A'] = -inputs['A'].exp()
    inputs = {name: x.to(dtype if x.ndim > 2 else torch.float32) for name, x in inputs.items()}
    weight = torch.randn(sizes['u'], generator=generator).to(dtype)

    def run(name, device, dtypes):
        leaves = {key: x.to(device, dtypes).detach().requires_grad_() for key, x in inputs.items()}
        y = ops.selective_scan(**leaves, backend=name)
        gradients = torch.autograd.grad(y, list(leaves.values()), weight.to(device, y.dtype))
        named = zip((f'the gradient of {key}' for key in leaves), gradients, strict=True)
        return {'the result': y.detach(), **dict(named)}

    found, wanted = run(backend, device, None), run('reference', 'cpu', torch.float64)
    return {
        part: ((found[part].cpu().double() - want).abs().max() / want.abs().max().clamp(min=1e-9)).item()
        for part, want in wanted.items()
    }
