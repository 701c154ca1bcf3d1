"""Averages of weights against computations by hand, and exact continuation."""

import copy
import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from training.averaging import EMA, LastEpochs, recompute_batch_norm
from training.early_stopping import EarlyStopping


class Small(nn.Module):
    """BatchNorm, a shared weight, an integer buffer and a boolean one."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("flag", torch.tensor([False, True]))

    def forward(self, x):
        return self.second(self.drop(self.norm(self.first(x))))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Small()


def _change(net, seed):
    """Other weights, as a training step would leave them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*net.parameters(), *net.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))
            elif tensor.dtype == torch.bool:
                tensor.logical_not_()
            else:
                tensor.add_(1)


def _copied(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def _through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def _assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


# --- EMA -------------------------------------------------------------------------------------------------------------


def test_ema_by_hand(net):
    ema = EMA(net, 0.5)
    expected = {name: tensor.double() for name, tensor in _copied(net).items()}
    for step in range(1, 12):
        _change(net, step)
        ema.update(net)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
    assert (1 + 8) / (10 + 8) == 0.5  # so both the ramp and the plateau were in it
    for name, tensor in ema.net.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(tensor, net.state_dict()[name])
    assert ema.net.count == 11
    assert ema.net.second.weight is ema.net.first.weight


def test_ema_forgets_the_start_on_small_data(net):
    """After 20 steps with decay 0.9999, less than a thousandth of the start is left; without a ramp, 0.998."""
    with torch.no_grad():
        net.first.weight.fill_(1.0)
        ema = EMA(net, 0.9999)
        net.first.weight.zero_()
    for _ in range(20):
        ema.update(net)
    assert 0 < ema.net.first.weight.max() < 1e-3


def test_ema_leaves_the_net_alone(net):
    ema = EMA(net, 0.9)
    before = _copied(net)
    ema.update(net)
    _assert_equal(_copied(net), before)
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not ema.net.training
    assert not any(parameter.requires_grad for parameter in ema.net.parameters())


def test_ema_of_a_net_without_floats():
    EMA(nn.Identity(), 0.9).update(nn.Identity())


def test_swapping_the_ema_at_every_step_changes_nothing(net):
    start = copy.deepcopy(net)
    whole = EMA(start, 0.5)
    ema = EMA(start, 0.5)
    for step in range(15):
        _change(net, step)
        whole.update(net)
        state = _through_a_file(ema.state_dict())
        ema = EMA(net, 0.5)
        ema.load_state_dict(state)
        ema.update(net)
        _assert_equal(ema.net.state_dict(), whole.net.state_dict())


# --- last epochs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latest", [0, 1, 5])  # epochs after which the run may end still
@pytest.mark.parametrize("ran", [1, 3, 7])
def test_last_epochs_by_hand(net, ran, latest):
    last = LastEpochs(3)
    kept = []
    for epoch in range(1, ran + 1):
        _change(net, epoch)
        last.add(net, epoch, ran, ran + latest)
        kept = [*kept, _copied(net)][-3:]
    assert last.epochs == list(range(max(1, ran - 2), ran + 1))
    for name, tensor in last.mean().items():
        if tensor.is_floating_point():
            expected = torch.stack([weights[name].double() for weights in kept]).mean(dim=0).float()
            assert torch.allclose(tensor, expected, rtol=1e-6, atol=0)
        else:
            assert torch.equal(tensor, net.state_dict()[name])


@pytest.mark.parametrize("latest", [3, 9])
def test_narrow_numbers_are_summed_wide(latest):
    """In float16, 60000 + 60000 is infinite."""
    net = nn.Linear(1, 1, bias=False, dtype=torch.float16)
    kept = LastEpochs(3)
    for epoch, value in enumerate((60000.0, 60000.0, -60000.0), 1):
        nn.init.constant_(net.weight, value)
        kept.add(net, epoch, 3, latest)
    mean = kept.mean()["weight"]
    assert (mean.dtype, float(mean)) == (torch.float32, pytest.approx(20000, rel=1e-3))


def test_kept_weights_do_not_change_with_the_net(net):
    last = LastEpochs(1)
    last.add(net, 1, 1, 1)
    before = _copied(net)
    _change(net, 1)
    _assert_equal(last.mean(), before)


def test_only_epochs_that_can_be_the_last_are_kept(net):
    last, held = LastEpochs(2), []
    for epoch, earliest_end in enumerate((2, 2, 4, 5, 5), 1):
        last.add(net, epoch, earliest_end, 9)
        held.append(list(last.epochs))
    assert held == [[1], [1, 2], [3], [4], [4, 5]]


@given(st.lists(st.integers(0, 3), min_size=9, max_size=9), st.integers(1, 4), st.integers(0, 2), st.integers(1, 5))
def test_with_early_stopping_the_last_epochs_are_there_at_the_end(losses, patience, tail_epochs, count):
    stopping = EarlyStopping("loss", "min", patience, 0.0, 9, earliest_epoch=3, tail_epochs=tail_epochs)
    last, net = LastEpochs(count), nn.Linear(1, 1)
    epoch = 0
    while epoch < stopping.last_epoch:
        epoch += 1
        stopping.update(epoch, losses[epoch - 1])
        last.add(net, epoch, stopping.earliest_end(epoch), stopping.last_epoch)
    assert last.epochs == list(range(max(1, epoch - count + 1), epoch + 1))


def test_what_is_certain_takes_up_one_net_alone(net):
    last, held = LastEpochs(3), []
    for epoch in range(1, 9):
        last.add(net, epoch, earliest_end=epoch if epoch < 6 else 8, latest_end=8)
        held.append((list(last.epochs), len(last.weights), bool(last.total)))
    assert held[4] == ([3, 4, 5], 3, False)
    assert held[5:] == [([6], 0, True), ([6, 7], 0, True), ([6, 7, 8], 0, True)]


@pytest.mark.parametrize("latest", [6, 7, 20])
def test_swapping_the_last_epochs_after_each_changes_nothing(net, latest):
    whole, last = LastEpochs(3), LastEpochs(3)
    for epoch in range(1, 7):
        _change(net, epoch)
        state = _through_a_file(last.state_dict())
        last = LastEpochs(3)
        last.load_state_dict(state)
        whole.add(net, epoch, max(epoch, 3), latest)
        last.add(net, epoch, max(epoch, 3), latest)
        _assert_equal(last.mean(), whole.mean())
    assert last.epochs == whole.epochs == [4, 5, 6]


def test_a_state_from_before_there_was_a_sum(net):
    before, last = LastEpochs(2), LastEpochs(2)
    before.add(net, 1, 1, 9)
    state = before.state_dict()
    del state["total"]
    last.load_state_dict(state)
    last.add(net, 2, 2, 2)
    mean = last.mean()
    assert all(torch.allclose(mean[name], tensor) for name, tensor in net.state_dict().items())


# --- BatchNorm -------------------------------------------------------------------------------------------------------


def _images(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, 4, 4, generator=generator) * 2 + 5 for size in sizes]


def counted(batches):
    return ((images, len(images)) for images in batches)


def _convolutional():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5, momentum=0.3)
    )


def test_batch_norm_by_hand():
    """Each layer's statistics are the means over batches, weighed by images, of what reaches it without dropout."""
    net, batches = _convolutional(), _images(8, 8, 3)
    recompute_batch_norm(net, counted(batches))
    means, variances = [torch.zeros(4, dtype=torch.float64) for _ in range(2)]
    for batch in batches:
        reaching = net[0](batch).detach().double()
        means += reaching.mean(dim=(0, 2, 3)) * len(batch) / 19
        variances += reaching.var(dim=(0, 2, 3)) * len(batch) / 19
    torch.testing.assert_close(net[1].running_mean.double(), means, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net[1].running_var.double(), variances, rtol=1e-5, atol=1e-6)


def test_batches_of_equal_size_as_torch_does_it():
    net, batches = _convolutional(), _images(6, 6, 6)
    net[2].p = 0.0  # torch leaves dropout on
    reference = copy.deepcopy(net)
    recompute_batch_norm(net, counted(batches))
    torch.optim.swa_utils.update_bn(batches, reference)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, reference.state_dict()[name])


def test_what_was_there_does_not_matter():
    net = _convolutional()
    other = copy.deepcopy(net)
    other[1].running_mean.fill_(torch.nan)
    other[4].running_var.fill_(1e9)
    for each in (net, other):
        recompute_batch_norm(each, counted(_images(4, 4)))
    _assert_equal(net.state_dict(), other.state_dict())


@pytest.mark.parametrize("fails", [False, True])
def test_modes_momentum_and_weights_are_as_before(fails):
    net = _convolutional()
    net[1].eval()
    net[4].momentum = None
    weights = {name: parameter.clone() for name, parameter in net.named_parameters()}
    modes = [module.training for module in net.modules()]
    seen = []
    net[2].register_forward_hook(lambda module, *_: seen.append(module.training))
    if fails:
        with pytest.raises(RuntimeError):
            recompute_batch_norm(net, counted([*_images(4), torch.zeros(2, 7, 4, 4)]))
    else:
        recompute_batch_norm(net, counted(_images(4, 4)))
    assert [module.training for module in net.modules()] == modes
    assert (net[1].momentum, net[4].momentum) == (0.1, None)
    assert seen == [False] * (1 if fails else 2)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in net.named_parameters())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def test_held_layers_keep_their_statistics():
    net = _convolutional()
    net[1].eval()
    before = _copied(net)
    recompute_batch_norm(net, counted(_images(4, 4)))
    assert torch.equal(net[1].running_mean, before["1.running_mean"])
    assert not torch.equal(net[4].running_mean, before["4.running_mean"])


def test_a_single_image_is_left_out():
    net, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    batches = [torch.randn(size, 3) for size in (5, 1, 4)]
    recompute_batch_norm(net, counted(batches))
    recompute_batch_norm(other, counted([batches[0], batches[2]]))
    _assert_equal(net.state_dict(), other.state_dict())
    before = _copied(net)
    recompute_batch_norm(net, counted([batches[1]]))
    recompute_batch_norm(net, counted([]))
    _assert_equal(net.state_dict(), before)


def test_without_batch_norm_nothing_is_read():
    def batches():
        raise AssertionError("a batch was asked for")
        yield

    for net in (nn.Linear(3, 2), nn.BatchNorm1d(3, track_running_stats=False), nn.InstanceNorm2d(3)):
        recompute_batch_norm(net, counted(batches()))
