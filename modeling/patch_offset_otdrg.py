"""Where the patches of an encoder lie in the image: strided convolutions are not centred on an even grid."""

from contextlib import contextmanager
from typing import NamedTuple

from torch import nn

RESIZING = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.ZeroPad2d)


class Resizing(NamedTuple):
    """What a layer made of the rows or columns of a feature map."""

    size: int
    out_size: int
    kernel: int
    stride: int
    before: int
    after: int


@contextmanager
def recorded_layers(encoder: nn.Module):
    """Records, for rows and for columns, the layers that change the size of a feature map as the encoder runs."""
    layers: tuple[list[Resizing], list[Resizing]] = [], []

    def record(module, inputs, output):
        for axis, of_axis in enumerate(layers):
            size, out_size = inputs[0].shape[2 + axis], output.shape[2 + axis]
            if size != out_size:
                of_axis.append(Resizing(size, out_size, *_geometry(module, axis)))

    hooks = [module.register_forward_hook(record) for module in encoder.modules() if isinstance(module, RESIZING)]
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()


def patch_offset(layers: list[Resizing], image_size: int, num_patches: int) -> float:
    """
    By how much the centre of what a patch sees lies after `(i + 0.5) / num_patches` of the image, in patches.

    The arithmetic is that of receptive fields (Araujo et al., 2019): a layer of kernel `k` and padding `p` moves the
    centre of the first place by `(k - 1) / 2 - p` places of its input. A kernel of 3 at stride 2 with a padding of 1,
    as in a ResNet, sees each pair of places around its first one: three such layers, and maps lie 3.5 pixels of 8 too
    far down and right. What is left between the last map and the patches is taken to be even, as is the
    merging of patches, and everything where a layer pads in ways that its settings do not tell.
    """
    size, centre, step = image_size, 0.5, 1.0  # of the first place, and from one to the next, in pixels
    for layer in layers:
        if layer.size != size:
            continue  # beside one that did it, such as a shortcut
        if (size + layer.before + layer.after - layer.kernel) // layer.stride + 1 != layer.out_size:
            return 0.0
        centre += ((layer.kernel - 1) / 2 - layer.before) * step
        size, step = layer.out_size, step * layer.stride
    merged = image_size / num_patches / step
    centre += (merged - 1) / 2 * step
    return centre / (step * merged) - 0.5


def _geometry(module: nn.Module, axis: int) -> tuple[int, int, int, int]:
    """Kernel, stride, and padding before and after, of the rows or columns."""
    if isinstance(module, nn.ZeroPad2d):
        left, right, top, bottom = module.padding
        return 1, 1, *((top, bottom), (left, right))[axis]

    def of(name: str, default: int = 1) -> int:
        value = getattr(module, name, default)
        return value[axis] if isinstance(value, tuple) else value

    padding = 0 if module.padding == "valid" else of("padding")
    return (of("kernel_size") - 1) * of("dilation") + 1, of("stride"), padding, padding
