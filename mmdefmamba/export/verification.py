"""The proof that an exported file computes what its network computes: both run on the same images, and are compared.

Twice, because small differences may grow on their way through a network:

- **The whole**: the results of the file against those of the network. Two keys of a learned order may nearly tie. A
  change of 1e-6 in a feature exchanges their tokens then, and later blocks may exchange more. The network does that to
  itself when an image changes by 1e-6. So the tokens with another place in their order are counted for each block, and
  there is one limit for results without such a flip and one for results with flips. What exceeds it passes only if the
  network itself changes by as much, within a factor of ten, when the image changes by 1e-6: its results have no more
  digits then, in PyTorch as in the file.
- **The parts**: each block, and what follows the last one, computes from what the *file* has before it
  (:meth:`.runners.EagerNetwork.run_with`). Nothing grows here, so the limits hold for networks of any depth, a fault
  shows in the block in which it is, and flips must be near ties.
"""

from dataclasses import dataclass, field

import torch

from ..scans import DeformableScan
from .runners import EagerNetwork

#: Largest difference of a result without a flip, and with flips, relative to max(1, the largest value of the result).
LIMIT, LIMIT_WITH_FLIPS = 5e-6, 2e-3
#: Largest difference of the result of a block that computes from what the file has, relative to its largest value.
LIMIT_OF_BLOCK = 1e-5
#: How far the keys of a learned order may fall from one token to the next in the order of the file.
LIMIT_OF_FALL = 1e-5
#: The change of an image, relative to the standard deviation of its values, after which a network is compared with
#: itself. A difference beyond the limits is at most so many times what the network changes by.
CHANGE, TIMES_OWN_CHANGE = 1e-6, 10
#: The largest stride of DefMamba. Some necks and heads take images alone whose sides are multiples of it.
STRIDE = 32
#: (batch, height, width) beside the main size: odd ones, thin ones, one pixel, other batches.
SIZES = ((2, 64, 96), (3, 33, 47), (1, 7, 90), (2, 50, 5), (1, 1, 1))


@dataclass
class Comparison:
    """One batch of images, in the network and in the file.

    Args:
        size: (batch, height, width).
        differences: name of a result -> its largest difference, divided by max(1, its largest value).
        flips: name of a scan -> number of tokens with another place in its order; scans with none are left out.
        tokens: number of tokens of all orders that were compared.
        parts: name of a result or block -> as ``differences``, but the network computes this part from what the file
            has before it. Those of blocks are divided by their largest value alone.
        falls: name of a deformable scan -> how far its keys fall, at most, in the order of the file.
        own: name of a result -> the same difference of the network from itself, when the image changes by ``CHANGE``;
            empty if nothing exceeds the limits.
        error: why the file gave no result, or wrong shapes; None if it gave results.
    """

    size: tuple
    differences: dict = field(default_factory=dict)
    flips: dict = field(default_factory=dict)
    tokens: int = 0
    parts: dict = field(default_factory=dict)
    falls: dict = field(default_factory=dict)
    own: dict = field(default_factory=dict)
    error: str | None = None

    @property
    def limit(self):
        """The largest difference of a result that passes without a look at the network's own changes."""
        return LIMIT_WITH_FLIPS if self.flips else LIMIT

    @property
    def exceeds(self):
        """Names of the results that differ by more than the limit."""
        return [name for name, x in self.differences.items() if not x <= self.limit]  # not `x > limit`: NaN exceeds

    @property
    def problem(self):
        """What is wrong, or None."""
        if self.error:
            return self.error
        for name, difference in self.parts.items():
            limit = LIMIT if name in self.differences else LIMIT_OF_BLOCK
            if not difference <= limit:
                return f'{name} alone differs by {difference:.1e} of its size, the limit is {limit:.0e}'
        for name, fall in self.falls.items():
            if not fall <= LIMIT_OF_FALL:
                return f'the order {name} is not sorted: a key is {fall:.1e} less than the one before it'
        for name in self.exceeds:
            own = self.own.get(name, 0.0)
            if not self.differences[name] <= TIMES_OWN_CHANGE * own:
                flips = f' with {sum(self.flips.values())} flipped tokens' if self.flips else ''
                changes = f', and the network itself changes by {own:.1e} with an image' if self.own else ''
                return f'{name} differs by {self.differences[name]:.1e}, the limit is {self.limit:.0e}{flips}{changes}'
        return None


@dataclass
class Verification:
    """All comparisons of a file with its network.

    Args:
        comparisons: a list of :class:`Comparison`.
        unproven_orders: names of the scans with orders that depend on the image, but not on keys that can be looked at.
    """

    comparisons: list
    unproven_orders: tuple = ()

    @property
    def problems(self):
        """What is wrong, a list of lines; empty if the file may be used."""
        lines = [f'{_text(c.size)}: {c.problem}' for c in self.comparisons if c.problem]
        if not self.comparisons:
            lines.append('nothing was compared')
        compared = [c for c in self.comparisons if not c.error]
        for name in self.unproven_orders:
            if compared and all(name in c.flips for c in compared):
                lines.append(f'each comparison has flipped tokens in {name}: the file sorts otherwise than the network')
        return lines

    @property
    def flips(self):
        """The number of flipped tokens of all comparisons."""
        return sum(sum(c.flips.values()) for c in self.comparisons)

    def table(self):
        """Return the comparisons as lines of text."""
        lines = [f'{"batch x height x width":22} {"largest difference":26} {"of one part":11} flipped tokens']
        for c in self.comparisons:
            found = ', '.join(f'{name} {value:.1e}' for name, value in c.differences.items()) or '-'
            part = f'{max(c.parts.values()):.1e}' if c.parts else '-'
            flips = ', '.join(f'{name}: {count}' for name, count in c.flips.items())
            lines.append(f'{_text(c.size):22} {found:26} {part:11} {flips or 0} of {c.tokens}')
            if c.own:
                own = ', '.join(f'{name} {value:.1e}' for name, value in c.own.items())
                lines.append(f'{"":22} the network itself, when the image changes by {CHANGE:.0e}: {own}')
        return '\n'.join(lines)


def random_images(size, channels, raw=False, seed=0):
    """Return images for a comparison: smooth shapes and noise, so that keys of all distances occur.

    Args:
        size: (batch, height, width).
        channels: of the images.
        raw: 0 to 255 instead of about -2 to 2.
        seed: of the random numbers.

    Returns:
        (batch, channels, height, width), float32.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, height, width = size
    coarse = torch.randn(batch, channels, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode='bilinear', align_corners=True)
    images = smooth + 0.3 * torch.randn(batch, channels, height, width, generator=generator)
    return ((images + 2.5) * 51).clamp(0, 255).round() if raw else images


def verify(file, network, sizes, raw=False, report=lambda line: None):
    """Compare a file with its network.

    Args:
        file: an :class:`~.runners.OnnxFile` or a :class:`~.runners.ProgramFile`.
        network: the :class:`~.graph.ExportedPart` that was exported.
        sizes: list of (batch, height, width); see ``SIZES``.
        raw: whether the images are raw, see :func:`random_images`.
        report: takes a line of text after each comparison.

    Returns:
        The :class:`Verification`.

    Raises:
        RuntimeError, ValueError: the network itself cannot take images of a size.
    """
    comparisons, eager, learned = [], EagerNetwork(network), set()
    for seed, size in enumerate(sizes):
        images = random_images(size, network.channels, raw, seed)
        try:
            expected = eager.run(images)
        except RuntimeError:  # as the neck of RTMDet, which joins maps whose sizes must fit
            whole = (size[0], *(-(-side // STRIDE) * STRIDE for side in size[1:]))
            if whole == tuple(size):
                raise
            report(f'{_text(size)}: the network takes no such images; {_text(whole)} is checked in its place')
            size = whole
            images = random_images(size, network.channels, raw, seed)
            expected = eager.run(images)
        learned |= {*expected[1]}
        try:
            actual = file.run(images)
        except Exception as error:  # onnxruntime has classes of its own; whatever it is, the file gives no result
            comparison = Comparison(tuple(size), error=f'the file does not run: {str(error).splitlines()[0][:300]}')
        else:
            comparison = compare(tuple(size), expected, actual)
            if not comparison.error:
                _compare_parts(comparison, eager, images, actual)
                if comparison.exceeds:
                    comparison.own = own_changes(eager, images, expected[0], comparison.differences)
        comparisons.append(comparison)
        report(f'{_text(size)}: {comparison.problem or "equal"}')
    modules = dict(network.named_modules())
    unproven = sorted(name for name in learned if not isinstance(modules[name], DeformableScan))
    return Verification(comparisons, tuple(unproven))


def compare(size, expected, actual):
    """Return the :class:`Comparison` of what the network and the file gave, as :meth:`.OnnxFile.run` returns it.

    It has no parts yet.
    """
    results, orders, blocks = expected
    file_results, file_orders, file_blocks = actual
    comparison = Comparison(size)
    if len(results) != len(file_results):
        comparison.error = f'the file has {len(file_results)} results, the network {len(results)}'
        return comparison
    for (name, found), wanted in zip(file_results.items(), results, strict=True):
        if found.shape != wanted.shape:
            comparison.error = f'{name} is {tuple(found.shape)} in the file and {tuple(wanted.shape)} in the network'
            return comparison
        if not wanted.isfinite().all():
            comparison.error = f'{name} of the network itself is not finite: check the weights'
            return comparison
        comparison.differences[name] = _difference(found, wanted, at_least=1)
    missing = sorted(({*orders} - {*file_orders}) | ({*blocks} - {*file_blocks}))
    if missing:
        comparison.error = f'the file does not say where {missing[0]} is computed, so that it cannot be checked'
        return comparison
    for name, order in orders.items():
        comparison.tokens += order.numel()
        if file_orders[name].shape != order.shape:
            comparison.error = f'the order {name} has another number of tokens in the file'
            return comparison
        if not torch.equal(file_orders[name].sort().values, torch.arange(order.shape[1]).expand_as(order)):
            comparison.error = f'the order {name} of the file is not a permutation'
            return comparison
        flipped = int((file_orders[name] != order).sum())
        if flipped:
            comparison.flips[name] = flipped
    for name, block in blocks.items():
        if file_blocks[name].numel() != block.numel():
            comparison.error = f'the block {name} has another size in the file'
            return comparison
    return comparison


def _compare_parts(comparison, eager, images, actual):
    """Fill in ``parts`` and ``falls`` of a comparison."""
    file_results, file_orders, file_blocks = actual
    results, _, blocks, comparison.falls = eager.run_with(images, file_orders, file_blocks)
    for name, block in blocks.items():
        comparison.parts[name] = _difference(file_blocks[name].reshape(block.shape), block)
    for (name, found), wanted in zip(file_results.items(), results, strict=True):
        comparison.parts[name] = _difference(found, wanted, at_least=1)


def own_changes(eager, images, results, names, times=2):
    """Return how much the results of a network change when its images change by ``CHANGE``.

    Args:
        eager: an :class:`~.runners.EagerNetwork`.
        images: (batch, channels, height, width).
        results: of the network for these images.
        names: of the results.
        times: number of changed images; the largest change counts.

    Returns:
        name -> largest change, divided by max(1, the largest value of the result).
    """
    changes = dict.fromkeys(names, 0.0)
    for seed in range(times):
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
        changed = images + CHANGE * images.std(correction=0) * noise
        for name, found, wanted in zip(names, eager.run(changed)[0], results, strict=True):
            changes[name] = max(changes[name], _difference(found, wanted, at_least=1))
    return changes


def _difference(found, wanted, at_least=1e-30):
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=at_least))


def _text(size):
    return ' x '.join(map(str, size))
