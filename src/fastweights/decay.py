"""How a memory fades with its age.

A decay is a function r(k) of the age k = 0, 1, 2, … of a memory, with r(0) = 1. The fast weight
matrix is the sum of everything written so far, each outer product scaled by the write rate and by
the decay at its age:

.. math:: A(t) = \\eta \\sum_{\\tau \\le t} r(t - \\tau)\\, h(\\tau) h(\\tau)^\\top

==========================  ======================  ===============================================
class                       r(k)                    source
==========================  ======================  ===============================================
:class:`Exponential`        rate^k                  Ba, Hinton et al. (2016), equation 1
:class:`SumOfExponentials`  Σ share · rate^k        several time scales at once
:class:`PowerLaw`           (k + 1)^-exponent       Xu, Ba & Zemel (2017), "a power-law decay t^-γ"
:class:`Factorial`          ((k + 1)!)^-exponent    Xu, Ba & Zemel (2017), the product as printed
:class:`StepIndexed`        (s! / t!)^exponent      Xu, Ba & Zemel (2017), t^-0.5 on one matrix
:class:`Free`               one free value per age  ours
==========================  ======================  ===============================================

Every decay is an ``nn.Module``; with ``learnable=True`` its parameter takes part in training and
stays in its valid range whatever the optimizer does to it. All can be made on the meta device;
``reset_parameters()`` gives them their numbers once they are on a real one.
"""

from __future__ import annotations

import bisect
import copy
import itertools
import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fastweights.arguments import check_flag, check_integer, check_number
from fastweights.initial import set_values

__all__ = [
    "Decay",
    "Exponential",
    "Factorial",
    "Free",
    "PowerLaw",
    "StepIndexed",
    "SumOfExponentials",
    "as_decay",
]


class Decay(nn.Module):
    """What the recurrence asks of a decay.

    Attributes:
        stationary: r depends on the age alone, so the decay can be called on a tensor of ages.
        recurrent: the sum over memories can be carried as ``components`` matrices, each the last
            one times a number plus its share of what is written; the matrix and chunked forms
            need this.
        components: how many matrices that takes.
        fixed: what r depends on, as a number, where that never changes by itself; None where r is
            learned or comes from a buffer, and for classes from elsewhere, of which nobody knows.
        horizon: ages of ``horizon`` and more have r = 0 (at least in single precision), so older
            memories need not be kept; None when every age counts. A decay that has no horizon and
            is not recurrent keeps every vector, one more with each step.

    A decay of one's own that holds tensors should say in :meth:`reset_parameters` what they start
    from: that is what layers, and whoever makes models on the meta device, call.

    Example:
        >>> class Linear(Decay):  # a decay of one's own
        ...     def _at(self, ages):
        ...         return (1 - ages / 4).clamp(min=0)
        >>> Linear()(torch.arange(6))
        tensor([1.0000, 0.7500, 0.5000, 0.2500, 0.0000, 0.0000])
    """

    stationary: bool = True
    recurrent: bool = False
    components: int = 1
    horizon: int | None = None

    @property
    def fixed(self) -> float | None:
        return None

    def forward(self, ages: Tensor) -> Tensor:
        """r at the given ages.

        Args:
            ages: non-negative ages in steps, any shape, integer or floating point.

        Returns:
            r, shaped like ``ages``, in its dtype if that is floating point, otherwise in the
            default dtype.

        Raises:
            TypeError: the decay is not a function of age alone.
            ValueError: an age is negative.
        """
        if not self.stationary:
            raise TypeError(
                f"{type(self).__name__} depends on the step a memory was written and the step it "
                "is read, not on the age alone; call between(written, read) instead"
            )
        if has_values(ages) and ages.numel() and bool((ages < 0).any()):
            raise ValueError(f"ages must be non-negative, got a minimum of {ages.min().item()}")
        floating = ages if ages.is_floating_point() else ages.to(torch.get_default_dtype())
        return self._at(floating)

    def _at(self, ages: Tensor) -> Tensor:
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Go back to the values the decay was made with."""

    def table(self, length: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """r(0), …, r(length − 1) as a tensor of shape (length,)."""
        # Double precision before the cast: λ^k of a long age should be the nearest float32.
        wide = torch.float64 if device.type != "mps" else torch.float32
        return self._at(torch.arange(length, dtype=wide, device=device)).to(dtype)

    def between(self, written: Tensor, read: Tensor) -> Tensor:
        """The weight at step ``read`` of what was written at step ``written`` (≤ read)."""
        return self._at((read - written).to(torch.float64))

    def remaining(self, since: Tensor, now: Tensor) -> Tensor:
        """What is left at step ``now`` of each matrix as it was at step ``since`` (≤ now).

        Returns:
            Numbers in [0, 1], one per matrix in a last dimension: shape (…, components).

        Raises:
            TypeError: the decay is not recurrent.
        """
        if not self.recurrent:
            raise TypeError(
                f"{type(self).__name__} cannot be carried as a matrix: its sum over memories is "
                "not the last one times a number; use form='attention'"
            )
        return self.between(since, now)[..., None]

    def write_shares(self) -> Tensor:
        """How much of a write goes to each matrix, shape (components,); their sum is r(0) = 1."""
        return torch.ones(1, dtype=torch.float64, device="cpu")  # whatever the default device


_TABLES: dict[Any, tuple[Tensor, ...]] = {}


def fixed_tables(
    decay: Decay,
    kind: str,
    scale: float,
    length: int,
    dtype: torch.dtype,
    device: torch.device,
    make: Callable[[Decay, float, int, torch.dtype, torch.device], tuple[Tensor, ...]],
) -> tuple[Tensor, ...] | None:
    """What ``make`` returns of the other arguments, made once; None where r may change by itself.

    A short call would spend much of its time on making it again. For code that nobody traces.

    Args:
        decay: r.
        kind: tells what different functions make apart.
        scale: a factor of r.
        length: of the table.
        dtype: of the table.
        device: of the table.
        make: gets all of these but ``kind``.
    """
    fixed = decay.fixed
    if fixed is None:
        return None
    key = type(decay), kind, fixed, scale, length, dtype, device
    tables = _TABLES.get(key)
    if tables is None:
        while len(_TABLES) >= 64:
            _TABLES.pop(next(iter(_TABLES)), None)
        with torch.inference_mode(False), torch.no_grad():  # it may take part in a later graph
            tables = _TABLES[key] = make(decay, scale, length, dtype, device)
    return tables


def scaled_table(
    decay: Decay,
    scale: Tensor | float,
    length: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    remember: bool,
) -> Tensor:
    """scale · r(0), …, scale · r(length − 1), shape (1, 1, length).

    ``remember`` says that nobody traces this: then it need not be made again where nothing in it
    can change.
    """
    if remember and not isinstance(scale, Tensor):
        known = fixed_tables(decay, "ages", scale, length, dtype, device, _scaled_table)
        if known is not None:
            return known[0]
    return _scaled_table(decay, scale, length, dtype, device)[0]


def _scaled_table(
    decay: Decay, scale: Tensor | float, length: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor]:
    return ((scale * decay.table(length, dtype=dtype, device=device))[None, None],)


def has_values(x: Tensor) -> bool:
    """Whether numbers are there to be looked at: on no meta device, and not under a transform."""
    return (
        not torch.compiler.is_compiling()
        and not x.is_meta
        and type(x) in (Tensor, nn.Parameter)
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        and not torch._C._are_functorch_transforms_active()
    )


def _written(number: Tensor | float) -> str:
    if isinstance(number, Tensor) and not has_values(number):
        return "?"
    return f"{float(number):.6g}"


class Exponential(Decay):
    """r(k) = rate^k, the decay of Ba, Hinton et al. (2016), equation 1.

    Args:
        rate: λ, in [0, 1]; in the open interval when learnable.
        learnable: train the logit of the rate.

    Raises:
        ValueError: ``rate`` is outside its interval or NaN.

    Example:
        >>> Exponential(0.5)(torch.arange(4))
        tensor([1.0000, 0.5000, 0.2500, 0.1250])
    """

    recurrent = True

    def __init__(self, rate: float = 0.95, *, learnable: bool = False) -> None:
        super().__init__()
        self.learnable = check_flag("learnable", learnable)
        self._rate = check_number("rate", rate, 0, 1, "()" if learnable else "[]")
        if learnable:
            self.logit_rate = nn.Parameter(torch.empty(()))
            self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.learnable:
            set_values(self.logit_rate, math.log(self._rate) - math.log1p(-self._rate))

    @property
    def fixed(self) -> float | None:
        return None if self.learnable or type(self).__module__ != __name__ else self._rate

    @property
    def rate(self) -> Tensor | float:
        """λ, a tensor that carries gradients when learnable, otherwise a float."""
        return torch.sigmoid(self.logit_rate) if self.learnable else self._rate

    def _at(self, ages: Tensor) -> Tensor:
        if not self.learnable:
            return torch.pow(self._rate, ages)
        # log σ(x) stays finite, and λ in (0, 1), however far the optimizer drives the logit
        return torch.exp(ages * nn.functional.logsigmoid(self.logit_rate.to(ages.dtype)))

    def extra_repr(self) -> str:
        with torch.no_grad():
            return f"rate={_written(self.rate)}, learnable={self.learnable}"


def _numbers(
    name: str,
    values: Iterable[float],
    low: float = -math.inf,
    high: float = math.inf,
    ends: str = "[]",
) -> list[float]:
    if not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of numbers, got {type(values).__name__}")
    return [check_number(name, value, low, high, ends) for value in values]


class SumOfExponentials(Decay):
    """r(k) = Σ share · rate^k: a memory that fades on several time scales at once.

    It is carried as one matrix per exponential, so the cost of a step does not grow with the
    length. :meth:`PowerLaw.as_exponentials` gives one that stands in for a power law.

    Args:
        shares: the weight of each exponential; their sum is 1.
        rates: λ of each, in (0, 1].

    Raises:
        ValueError: the numbers of shares and rates differ, a rate is outside its interval, a share
            is not finite, or the shares do not add up to 1.

    Example:
        >>> SumOfExponentials([0.75, 0.25], [0.5, 1.0])(torch.arange(4))
        tensor([1.0000, 0.6250, 0.4375, 0.3438])
    """

    recurrent = True
    shares: Tensor
    speeds: Tensor

    def __init__(self, shares: Iterable[float], rates: Iterable[float]) -> None:
        super().__init__()
        self._shares, rates = _numbers("shares", shares), _numbers("rates", rates, 0, 1, "(]")
        if len(self._shares) != len(rates) or not rates:
            raise ValueError(
                f"shares and rates must be as many, and at least one, got {len(self._shares)} and "
                f"{len(rates)}"
            )
        if abs(math.fsum(self._shares) - 1) > 1e-6:
            raise ValueError(f"shares must add up to 1, got {math.fsum(self._shares):g}")
        # Not the rates: 1 − 10⁻⁶ is a number of two digits in single precision, 10⁻⁶ of seven.
        self._speeds = [-math.log(rate) for rate in rates]
        self.components = len(rates)
        self.register_buffer("shares", torch.empty(self.components, dtype=torch.float64))
        self.register_buffer("speeds", torch.empty(self.components, dtype=torch.float64))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        set_values(self.shares, torch.tensor(self._shares, dtype=torch.float64, device="cpu"))
        set_values(self.speeds, torch.tensor(self._speeds, dtype=torch.float64, device="cpu"))

    def _each(self, ages: Tensor) -> Tensor:
        return torch.exp(-ages[..., None] * self.speeds.to(ages.dtype))

    def _at(self, ages: Tensor) -> Tensor:
        return self._each(ages) @ self.shares.to(ages.dtype)

    def remaining(self, since: Tensor, now: Tensor) -> Tensor:
        return self._each((now - since).to(torch.float64))

    def write_shares(self) -> Tensor:
        return self.shares

    def extra_repr(self) -> str:
        return f"components={self.components}"


class _WithExponent(Decay):
    """A decay set by one exponent; the parameter is its logarithm, so that it stays positive."""

    def __init__(self, exponent: float = 0.5, *, learnable: bool = False) -> None:
        super().__init__()
        self.learnable = check_flag("learnable", learnable)
        self._exponent = check_number("exponent", exponent, 0, ends="()")
        if learnable:
            self.log_exponent = nn.Parameter(torch.empty(()))
            self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.learnable:
            set_values(self.log_exponent, math.log(self._exponent))

    @property
    def fixed(self) -> float | None:
        return None if self.learnable or type(self).__module__ != __name__ else self._exponent

    @property
    def exponent(self) -> Tensor | float:
        """γ, a tensor that carries gradients when learnable, otherwise a float."""
        if not self.learnable:
            return self._exponent
        # e^±80 is positive and finite in float32: an infinite γ would make r(0) = 1^−γ a NaN
        return torch.exp(self.log_exponent.clamp(-80.0, 80.0))

    def _power(self, log_base: Tensor) -> Tensor:
        """exp(−γ · log_base)."""
        exponent = self.exponent
        if isinstance(exponent, Tensor):
            exponent = exponent.to(log_base.dtype)
        else:
            exponent = min(exponent, 1e30)  # beyond which single precision makes a NaN of r(0)
        return torch.exp(-exponent * log_base)

    def extra_repr(self) -> str:
        with torch.no_grad():
            return f"exponent={_written(self.exponent)}, learnable={self.learnable}"


class PowerLaw(_WithExponent):
    """r(k) = (k + 1)^−exponent: a memory is one step old when it is first read.

    Source: Xu, Ba & Zemel (2017), after Benna & Fusi (2016).

    Args:
        exponent: γ > 0.
        learnable: train the logarithm of the exponent.

    Raises:
        ValueError: ``exponent`` is not a positive finite number.

    Example:
        >>> PowerLaw(0.5)(torch.tensor([0, 3, 8]))
        tensor([1.0000, 0.5000, 0.3333])
    """

    def _at(self, ages: Tensor) -> Tensor:
        return self._power(torch.log1p(ages))

    def as_exponentials(self, tolerance: float = 1e-3, horizon: int = 100_000) -> SumOfExponentials:
        """A sum of few exponentials in its place, for a cost per step that does not grow.

        The rates are spread evenly over the logarithm of their time scales, and the shares are
        the least squares of the relative error (compare Beylkin & Monzón, 2010, "Approximation by
        exponential sums revisited"). With γ = ½, 1e-3 over 10⁵ ages takes 13 of them, 0.05 over
        a thousand takes 5; beyond the horizon the sum falls off faster than the power law. With
        ``form="auto"`` a layer carries them as C matrices once it has written about 2·C·H vectors,
        from where that costs less.

        Args:
            tolerance: largest ``|sum − r| / r`` at the ages 0 … horizon, in (0, 1).
            horizon: the largest age that matters, at least 1.

        Raises:
            ValueError: 40 exponentials do not reach the tolerance.

        Example:
            >>> decay = PowerLaw(0.5).as_exponentials(tolerance=0.01, horizon=1000)
            >>> decay.components, round(decay(torch.tensor(99.0)).item(), 3)
            (7, 0.1)
        """
        tolerance = check_number("tolerance", tolerance, 0, 1, "()")
        horizon = check_integer("horizon", horizon, high=2**53)
        with torch.no_grad():
            exponent = self.exponent
            if isinstance(exponent, Tensor) and not has_values(exponent):
                raise ValueError(f"{self} is learned, and its exponent has no value here")
            exact = PowerLaw(float(exponent))
            seen = _ages(horizon, 2000)
            for count in range(2, 41):
                shares, speeds = _fitted(exact, count, horizon)
                total = torch.exp(-seen[:, None] * speeds) @ shares
                if ((total / exact(seen) - 1).abs() <= tolerance).all():
                    return SumOfExponentials(shares.tolist(), speeds.neg().exp().tolist())
        raise ValueError(
            f"no sum of 40 exponentials is within tolerance={tolerance:g} of {self} up to the age "
            f"{horizon}"
        )


# The numbers of the fit are made on the CPU, also where new tensors go to another device, as under
# `with torch.device("meta")`.


def _ages(horizon: int, count: int) -> Tensor:
    """The first ``count`` ages, and as many more, evenly over their logarithm."""
    first = torch.arange(min(count, horizon + 1), dtype=torch.float64, device="cpu")
    return torch.cat([first, _spread(1, horizon, count).round()]).unique()


def _spread(low: float, high: float, count: int) -> Tensor:
    """Numbers evenly over their logarithm."""
    ends = math.log10(low), math.log10(high)
    return torch.logspace(*ends, count, dtype=torch.float64, device="cpu")


def _fitted(decay: Decay, count: int, horizon: int) -> tuple[Tensor, Tensor]:
    """Shares and speeds of ``count`` exponentials, the best of those tried."""
    ages = _ages(horizon, 300)
    r = decay(ages)[:, None]
    fits = []
    for slowest, fastest in itertools.product((0.2, 0.5, 1.0), (1.0, 1.5, 2.0, 3.0)):
        speeds = _spread(slowest / horizon, fastest, count)
        relative = torch.exp(-ages[:, None] * speeds) / r
        # Not by the default driver, whose last bits depend on where its workspace happens to lie.
        shares = torch.linalg.lstsq(relative, torch.ones_like(r), driver="gelsd").solution
        shares = shares / shares.sum()  # r(0) = 1
        fits.append(((relative @ shares - 1).abs().max().item(), shares[:, 0], speeds))
    _, shares, speeds = min(fits, key=lambda fit: fit[0])
    return shares, speeds


class Factorial(_WithExponent):
    """r(k) = ((k + 1)!)^−exponent, the product that Xu, Ba & Zemel (2017) print.

    Args:
        exponent: γ > 0.
        learnable: train the logarithm of the exponent.

    Raises:
        ValueError: ``exponent`` is not a positive finite number.

    Example:
        >>> Factorial(1.0)(torch.arange(4))
        tensor([1.0000, 0.5000, 0.1667, 0.0417])
        >>> Factorial(1.0).horizon, Factorial(0.5).horizon  # a learned one has none
        (38, 64)
    """

    def __init__(self, exponent: float = 0.5, *, learnable: bool = False) -> None:
        super().__init__(exponent, learnable=learnable)
        if self.fixed is not None:
            self.horizon = _first_age_at_zero(self.fixed)

    def _at(self, ages: Tensor) -> Tensor:
        return self._power(torch.lgamma(ages + 2))


def _first_age_at_zero(exponent: float) -> int | None:
    """Where ((k + 1)!)^−exponent is nothing in single precision, 2⁻¹⁵⁰; None if that is far."""

    def is_zero(age: int) -> bool:
        return exponent * math.lgamma(age + 2) >= 150 * math.log(2)

    farthest = 1 << 20
    if not is_zero(farthest):
        return None
    return bisect.bisect_left(range(farthest), True, key=is_zero)


class StepIndexed(_WithExponent):
    """A(t) = t^−exponent A(t − 1) + η h(t) h(t)ᵀ: one scalar decay of one matrix, by the clock.

    What was written at step s has the weight (s! / t!)^exponent at step t, which depends on both
    steps and not on the age alone. Step 1 is the first step with a non-zero hidden vector, h(1)
    when the sequence starts from zero. Source: Xu, Ba & Zemel (2017), read as a decay of the
    matrix.

    Args:
        exponent: γ > 0.
        learnable: train the logarithm of the exponent.

    Raises:
        ValueError: ``exponent`` is not a positive finite number.

    Example:
        >>> StepIndexed(1.0).between(torch.tensor([1, 2, 3]), torch.tensor(3)).float()
        tensor([0.1667, 0.3333, 1.0000])
    """

    stationary = False
    recurrent = True

    def table(self, length: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        raise TypeError("StepIndexed has no table by age; call between(written, read) instead")

    def between(self, written: Tensor, read: Tensor) -> Tensor:
        start, end = (x.clamp(min=0).to(torch.float64) for x in (written, read))
        return self._power(torch.lgamma(end + 1) - torch.lgamma(start + 1))


class Free(Decay):
    """One free value for each age below ``length``; older memories are gone.

    r(0) is 1 (the write rate sets the scale), r(1), …, r(length − 1) are free and start at 0.95^k.

    Args:
        length: number of ages that count, at least 1.
        values: the starting values of r(1), …, r(length − 1), instead of 0.95^k.
        learnable: train the values.

    Raises:
        ValueError: ``length`` is below 1, or ``values`` has the wrong number of values or one
            that is not finite.

    Example:
        >>> Free(3, values=[0.5, 0.25])(torch.arange(5))
        tensor([1.0000, 0.5000, 0.2500, 0.0000, 0.0000])
    """

    def __init__(
        self, length: int, *, values: Iterable[float] | None = None, learnable: bool = False
    ) -> None:
        super().__init__()
        length = check_integer("length", length)
        if values is None:
            values = (0.95**k for k in range(1, length))
        self._start = _numbers("values", values)
        if len(self._start) != length - 1:
            raise ValueError(
                f"values must hold r(1) … r(length − 1), that is {length - 1} numbers, "
                f"got {len(self._start)}"
            )
        self.horizon = length
        self.learnable = check_flag("learnable", learnable)
        later = torch.empty(length - 1)
        if learnable:
            self.values = nn.Parameter(later)
        else:
            self.register_buffer("values", later)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        set_values(self.values, torch.tensor(self._start, dtype=torch.float64, device="cpu"))

    def _at(self, ages: Tensor) -> Tensor:
        values: Tensor = self.values
        known = torch.cat([values.new_ones(1), values, values.new_zeros(1)]).to(ages.dtype)
        return known[ages.to(torch.int64).clamp(max=known.numel() - 1)]

    def extra_repr(self) -> str:
        return f"length={self.horizon}, learnable={self.learnable}"


def made_anew(decay: Decay, device: torch.device) -> Decay:
    """A copy on ``device`` with the values that the decay was made with.

    Raises:
        ValueError: the decay is on the meta device, and a class from elsewhere that cannot say what
            its values were.
    """
    own = copy.deepcopy(decay)
    tensors = itertools.chain(own.parameters(), own.buffers())
    if device.type == "meta" or not any(tensor.is_meta for tensor in tensors):
        own.to(device=device)
    elif type(own).reset_parameters is Decay.reset_parameters:
        raise ValueError(
            f"decay is a {type(own).__name__} on the meta device and has no reset_parameters() to "
            f"give it its values on {device}; make it there, or write that method"
        )
    else:
        own.to_empty(device=device)
    own.reset_parameters()
    return own


def as_decay(decay: Decay | float) -> Decay:
    """The decay itself, or Exponential of a number.

    Raises:
        TypeError: ``decay`` is neither.
        ValueError: the number is outside [0, 1].

    Example:
        >>> as_decay(0.9)
        Exponential(rate=0.9, learnable=False)
    """
    if isinstance(decay, Decay):
        return decay
    if isinstance(decay, bool) or not isinstance(decay, numbers.Real):
        raise TypeError(
            "decay must be a number (the rate of an exponential decay) or a "
            f"fastweights.decay.Decay, got {type(decay).__name__}"
        )
    return Exponential(check_number("decay", decay, 0, 1))
