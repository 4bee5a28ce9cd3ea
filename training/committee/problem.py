"""The training set as a trainer sees it, in coordinates in which its products are cheap."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from training.committee.protocols import Protocol

_ALIGNMENT = 16  # floats in 64 bytes; see `training.committee.descent`
_VECTOR = 8  # floats that the compiled kernels take at a time


@contextlib.contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Let torch use `n` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def span_serves(protocol: Protocol, device: torch.device) -> bool:
    """Whether training in the span of the patterns is possible and costs less than in the inputs.

    Not on a GPU, nor where inputs drop out, which turns a pattern into another one at every step.  With more patterns
    than inputs, their span is all of space and few of them are short, but still none is gathered: 2 to 3 times faster
    for P = 2N to 8N, against 4 times for P = 0.6 N.
    """
    return device.type == "cpu" and not protocol.dropout


class Problem:
    """Training set on the device: patterns times labels, since ``σ tanh(β u·x) = tanh(β u·(σx))``.

    Parameters
    ----------
    patterns : ndarray, shape (P, N)
    labels : ndarray, shape (P,)
    device : torch.device
    span : bool
        Whether weights and patterns are held in the coordinates of `Span`, else in the inputs themselves.
    dtype : torch.dtype
        Precision of weights and patterns.
    threads : int
        Threads of the compiled kernels, among which restarts are divided.

    Attributes
    ----------
    patterns : Tensor, shape (P, N')
        ``σ x`` in these coordinates, with N padded by zeros to a multiple of 16.
    ends : ndarray of int, shape (P,)
        Multiples of 8 from which on the entries of a pattern are 0; they do not decrease.
    positive : Tensor of bool, shape (P,)
        Whether ``σ = +1``.
    n_inputs : int
        N.
    span : Span or None
    """

    def __init__(
        self,
        patterns: np.ndarray,
        labels: np.ndarray,
        device: torch.device,
        *,
        span: bool = False,
        dtype: torch.dtype = torch.float32,
        threads: int = 1,
    ):
        signed = torch.as_tensor(patterns * labels[:, None], dtype=torch.float64)
        n_patterns, self.n_inputs = signed.shape
        self.device, self.dtype, self.threads = device, dtype, threads
        self.span = Span(signed) if span else None
        self.patterns = self._padded(self.span.patterns if span else signed)
        lengths = np.minimum(np.arange(n_patterns) + 1 if span else self.n_inputs, self.n_inputs)
        self.ends = -(-np.broadcast_to(lengths, n_patterns) // _VECTOR) * _VECTOR
        self.positive = torch.as_tensor(labels > 0).to(device)

    def __len__(self) -> int:
        return len(self.patterns)

    def coordinates(self, weights: np.ndarray) -> torch.Tensor:
        """Hold the weights (..., N) of one restart in the coordinates of the problem, shape (..., N')."""
        w = torch.as_tensor(weights, dtype=torch.float64)
        return self._padded(w if self.span is None else self.span.coordinates(w))

    def weights(self, u: torch.Tensor) -> np.ndarray:
        """Weights (..., N) of one restart from its coordinates (..., N')."""
        w = u[..., : self.n_inputs]
        if self.span is not None:
            w = self.span.weights(w.double()).to(self.dtype)
        return w.cpu().numpy()

    @property
    def probe(self) -> np.ndarray:
        """What tells the coordinates from others, to be stored with weights; nothing for those of the inputs."""
        return np.empty(0) if self.span is None else self.span.probe

    def taken_up(self, u: np.ndarray, probe: np.ndarray) -> torch.Tensor:
        """Hold stored weights u (R, y, K, N'), in these coordinates or in those of the inputs, in these coordinates."""
        width = self.patterns.shape[1] if len(probe) else self.n_inputs
        if u.shape[-1] < width or (len(probe) and u.shape[-1] > width):
            raise ValueError(f"the weights of the checkpoint have {u.shape[-1]} inputs, not {width}: delete it")
        if len(probe):
            return torch.from_numpy(u)
        held = torch.empty(*u.shape[:-1], self.patterns.shape[1], dtype=self.dtype, device=self.device)
        for restart, weights in zip(held, u[..., : self.n_inputs], strict=True):
            restart.copy_(self.coordinates(weights))
        return held

    def _padded(self, rows: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(rows, (0, -self.n_inputs % _ALIGNMENT))
        return padded.to(self.device, self.dtype).contiguous()


class Span:
    """Orthonormal coordinates of the inputs that begin with the span of the patterns.

    Attributes
    ----------
    patterns : Tensor of float64, shape (P, N)
        Lower triangular: pattern μ has no component beyond the first μ + 1.
    probe : ndarray of float64, shape (N,)
        Coordinates of a fixed vector, by which coordinates are known again.

    Notes
    -----
    Householder's ``X̃ᵀ = Q R`` gives the coordinates Qᵀw of a vector w, and those of the patterns, the rows of Rᵀ.
    Lengths, angles and normal noise are what they were, so every step of a trainer is, too; but its products with the
    patterns cost half of P² where they cost P N, and no pattern needs to be independent of the others.

    Everything here is computed by one thread and the rows of one restart at a time, for the bits.
    """

    def __init__(self, signed: torch.Tensor):
        with torch_threads(1):
            reflections, self._factors = torch.geqrf(signed.T.contiguous())
        self._reflections = reflections[:, : len(self._factors)].contiguous()
        patterns = reflections.triu().T
        # What rounding leaves of the last component of a pattern that depends on those before it is none.
        residue = signed.shape[1] * torch.finfo(torch.float64).eps * torch.linalg.vector_norm(patterns, dim=1)
        self.patterns = torch.where(patterns.abs() > residue[:, None], patterns, 0.0)
        self.probe = self.coordinates(torch.cos(torch.arange(signed.shape[1], dtype=torch.float64))).numpy()

    def coordinates(self, weights: torch.Tensor) -> torch.Tensor:
        """Qᵀw of every row w, shapes (..., N)."""
        return self._rotated(weights, transpose=True)

    def weights(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Undo `coordinates`."""
        return self._rotated(coordinates, transpose=False)

    def _rotated(self, rows: torch.Tensor, *, transpose: bool) -> torch.Tensor:
        columns = rows.reshape(-1, rows.shape[-1]).T.contiguous()
        with torch_threads(1):
            rotated = torch.ormqr(self._reflections, self._factors, columns, left=True, transpose=transpose)
        return rotated.T.reshape(rows.shape)
