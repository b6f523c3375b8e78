"""The speed of DefMamba-T against torchvision's Swin-T, and whether more threads help."""

import statistics

#: CPU capability -> the ratio images/s of DefMamba-T to Swin-T with the compiled kernels and one thread, float32,
#: batch 4 at 224 x 224: what was measured, and the range where a machine of this kind should be (docs/benchmarks.md).
EXPECTED = {'AVX512': ('2.8 to 3.0', 2.0, 4.0)}
SIZE, CPU_BATCH, GPU_BATCH, ROUNDS = 224, 4, 64, 3


def speed(report, rounds=ROUNDS):
    """Time both networks in turns: on a CPU with one thread, so that other processes and cores matter little."""
    report.step('import the networks')
    import torch

    from .. import ops
    from ..analysis.timing import all_times
    from ..models import DefMamba

    try:
        from torchvision.models import swin_t
    except Exception as error:
        report.note(f'the speed was not compared: torchvision cannot be imported ({type(error).__name__}: {error})')
        return
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    batch = GPU_BATCH if device == 'cuda' else CPU_BATCH
    images = torch.randn(batch, 3, SIZE, SIZE, device=device)
    networks = {'DefMamba-T': DefMamba('tiny', out_indices=(3,)), 'Swin-T': swin_t()}
    networks = {name: network.to(device).eval() for name, network in networks.items()}
    threads = torch.get_num_threads()

    def timed(names):
        def call(network):
            with torch.no_grad():
                network(images)

        steps = {name: lambda network=networks[name]: call(network) for name in names}
        return {name: statistics.median(times) for name, times in all_times(steps, rounds, device).items()}

    if device == 'cpu':
        torch.set_num_threads(1)
    report.step('time the networks')
    seconds = timed(networks)
    ratio = seconds['Swin-T'] / seconds['DefMamba-T']
    where = torch.cuda.get_device_name() if device == 'cuda' else 'CPU, 1 thread'
    for name, value in seconds.items():
        report.fact(name, f'{batch / value:.1f} images/s ({where}, float32, batch {batch}, {SIZE} x {SIZE}, inference)')
    report.fact('DefMamba-T against Swin-T', f'{ratio:.2f} times as many images/s')
    report.fact('ratio', round(ratio, 3))
    capability = torch.backends.cpu.get_cpu_capability()
    measured, low, high = EXPECTED.get(capability, (None, None, None)) if device == 'cpu' else (None, None, None)
    if measured is None:
        kind = 'a GPU' if device == 'cuda' else f'a CPU with the capability {capability}'
        report.fact('expected', f'not known for {kind}: nobody has measured it')
    else:
        report.fact('expected', f'{low} to {high} ({measured} was measured on one machine with {capability})')
        report.fact('slow', ratio < low)
        if ratio < low:
            why = ops.auto_backend(torch.empty(1))
            report.note(
                f'DefMamba-T is slower than expected here: {ratio:.2f}, expected {low} to {high}. Backend: {why}'
            )
    if device == 'cpu' and threads > 1:
        report.step('time more threads')
        torch.set_num_threads(threads)
        several = timed(['DefMamba-T'])['DefMamba-T']
        report.fact(f'DefMamba-T with {threads} threads', f'{batch / several:.1f} images/s')
        if several > 1.1 * seconds['DefMamba-T']:
            report.note(
                f'{threads} threads are slower than one ({batch / several:.1f} and {batch / seconds["DefMamba-T"]:.1f} '
                'images/s): other processes use the cores, or there are fewer cores than threads'
            )
