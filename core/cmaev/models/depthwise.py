"""Three ways to a masked depthwise convolution; visible outputs agree (method.md 2.4).

Hidden cells are zeros to it, so that they cannot reach visible ones. `convolve` and
`convolve_masked` work on whole time slots; `convolve_visible` gathers the surroundings of each
visible token and never makes a whole slot: at a tenth of the tokens that is less work than a
convolution over zeros.

Shapes: B clips, t slots of h x w tokens, N = t*h*w, V visible tokens, S x S cells of a token,
C width, k frames of the kernel, R cells it reaches beyond its own, W = S + 2R width of a window.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmaev.models.conv_block import DEPTHWISE_SIZE


def convolve(x: Tensor, conv: nn.Conv3d) -> Tensor:
    """All cells of all slots: (B, t, h*S, w*S, C) -> the same."""
    if conv.kernel_size[0] > 1:
        y = conv(x.permute(0, 4, 1, 2, 3))  # (B, C, t, h*S, w*S)
        return y.permute(0, 2, 3, 4, 1)
    slots = x.flatten(0, 1).permute(0, 3, 1, 2)  # (B*t, C, h*S, w*S)
    # Slots are pictures here, for which libraries have faster gradients than for volumes.
    weight, padding = conv.weight.squeeze(2), DEPTHWISE_SIZE // 2
    y = F.conv2d(slots, weight, conv.bias, padding=padding, groups=conv.groups)
    return y.permute(0, 2, 3, 1).reshape(x.shape)


def convolve_masked(x: Tensor, conv: nn.Conv3d, *, keep: Tensor) -> Tensor:
    """As `convolve`, with hidden cells zeroed first.

    Args:
        x: (B, t, h*S, w*S, C).
        conv: the depthwise convolution.
        keep: (B, t, h*S, w*S, 1) bool, True = visible.
    """
    return convolve(x * keep, conv)


def convolve_visible(x: Tensor, conv: nn.Conv3d, *, windows: Tensor) -> Tensor:
    """Cells of visible tokens only: (B, V, S, S, C) -> (B, V, S, S, C).

    Args:
        x: cells of the visible tokens.
        conv: the depthwise convolution.
        windows: (B, V, W, W, k) rows of `x` as in `cell_windows`.
    """
    B, V, W, _, k = windows.shape
    rows = x.reshape(-1, x.shape[-1])  # (B*V*S*S, C)
    rows = F.pad(rows, (0, 0, 0, 1))  # (B*V*S*S + 1, C), the last one zeros
    surroundings = F.embedding(windows, rows, padding_idx=-1)  # (B, V, W, W, k, C)
    surroundings = surroundings.reshape(B * V, W, W, -1).permute(0, 3, 1, 2)  # (B*V, k*C, W, W)
    # Frames are channels here: k depthwise kernels side by side, added up behind.
    weight = conv.weight.permute(2, 0, 1, 3, 4).flatten(0, 1)  # (k*C, 1, 2R+1, 2R+1)
    bias = F.pad(conv.bias, (0, len(weight) - len(conv.bias))) if conv.bias is not None else None
    y = F.conv2d(surroundings, weight, bias, groups=len(weight))  # (B*V, k*C, S, S)
    y = y.permute(0, 2, 3, 1).reshape(*x.shape[:4], k, -1)  # (B, V, S, S, k, C)
    return y.sum(4)  # (B, V, S, S, C)


def neighbour_table(grid: tuple[int, int, int], *, frames: int) -> Tensor:
    """The tokens around each token.

    Args:
        grid: tokens along (t, h, w).
        frames: k, odd.

    Returns:
        (N, k, 3, 3) indices into N, with N where there is no token.
    """
    slots, height, width = grid
    index = torch.arange(slots * height * width).reshape(grid)
    reach = frames // 2
    padded = F.pad(index, (1, 1, 1, 1, reach, reach), value=index.numel())
    table = padded.unfold(0, frames, 1).unfold(1, 3, 1).unfold(2, 3, 1)  # (t, h, w, k, 3, 3)
    return table.reshape(-1, frames, 3, 3)


def visible_neighbours(table: Tensor, visible: Tensor) -> Tensor:
    """Which visible tokens lie around each visible token.

    Args:
        table: (N, k, 3, 3), as made by `neighbour_table`.
        visible: (B, V) indices into N.

    Returns:
        (B, V, k, 3, 3) positions among the B*V visible tokens; B*V for hidden and for none.
    """
    B, V = visible.shape
    number = torch.arange(B * V, device=visible.device).reshape(B, V)
    # (B, N + 1): the last column is for places outside the grid.
    position = number.new_full((B, table.shape[0] + 1), B * V).scatter(1, visible, number)
    around = table[visible].flatten(1)  # (B, V*k*9)
    return position.gather(1, around).reshape(B, V, *table.shape[1:])


def cell_windows(neighbours: Tensor, *, side: int, reach: int) -> Tensor:
    """The cells that the depthwise kernel meets at each visible token.

    Args:
        neighbours: (B, V, k, 3, 3), as made by `visible_neighbours`.
        side: S.
        reach: R, at most S.

    Returns:
        (B, V, W, W, k) indices into the B*V*S*S cells of visible tokens; B*V*S*S for zeros.
    """
    assert reach <= side, "a window ends within the neighbours of a token"
    offset = torch.arange(-reach, side + reach, device=neighbours.device)  # (W,)
    token, cell = offset.div(side, rounding_mode="floor") + 1, offset % side  # (W,) each
    near = neighbours[..., token[:, None], token[None, :]]  # (B, V, k, W, W)
    within = cell[:, None] * side + cell[None, :]  # (W, W)
    count = neighbours.shape[0] * neighbours.shape[1] * side**2
    return (near * side**2 + within).clamp(max=count).permute(0, 1, 3, 4, 2)  # (B, V, W, W, k)
