"""What torch, schedulers and checkpoints expect of an optimizer; values that are refused; lambda policies."""

import copy
import io

import pytest
import torch

from sparsebench.optim import AdaBreg, LinBreg, MLAdaBreg, MLLinBreg, ProxSGD, quantile_lambda

ALL = [LinBreg, AdaBreg, ProxSGD, MLLinBreg, MLAdaBreg]
DUAL = [LinBreg, AdaBreg, MLLinBreg, MLAdaBreg]


def small_net():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(36, 5)
    )
    with torch.no_grad():
        net[0].weight[1:3] = 0.0
        net[3].weight[:, ::2] = 0.0
    return net


def groups_of(net, lam=0.05):
    return [
        {"params": [net[0].weight], "regularizer": "kernels", "lam": lam},
        {"params": [net[3].weight], "regularizer": "l1", "lam": lam, "lambda_scale": 0.5},
        {"params": [net[0].bias, net[3].bias, *net[1].parameters()], "regularizer": None},
    ]


@pytest.mark.parametrize("optimizer_class", ALL)
def test_closure_runs_with_gradients_and_its_loss_returns(optimizer_class):
    net = small_net()
    optimizer = optimizer_class(groups_of(net), 0.1)
    pointers = [p.data_ptr() for p in net.parameters()]
    before = copy.deepcopy(net.state_dict())
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = net(torch.ones(2, 3, 5, 5)).square().sum()
        loss.backward()
        calls.append(loss)
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert len(calls) == 1
    assert loss is calls[0]
    assert optimizer.step() is None
    assert pointers == [p.data_ptr() for p in net.parameters()]
    assert not torch.equal(before["3.weight"], net[3].weight)
    assert not torch.equal(before["3.bias"], net[3].bias)


@pytest.mark.parametrize("optimizer_class", ALL)
def test_parameters_without_gradient_are_skipped(optimizer_class):
    first, second = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    optimizer = optimizer_class([first, second], 0.1, "l1", 0.05)
    first.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(second, torch.ones(3))
    assert "dual" not in optimizer.state[second]
    assert not torch.equal(first, torch.ones(3))


@pytest.mark.parametrize("optimizer_class", ALL)
@pytest.mark.parametrize("stop", [3, 5])
def test_resume_is_bit_exact_through_a_file(optimizer_class, stop):
    """With coarse_steps = 3 the stops are in the fine step's place and inside a coarse phase."""
    options = {"coarse_steps": 3} if optimizer_class in (MLLinBreg, MLAdaBreg) else {}
    options |= {"momentum": 0.5} if optimizer_class in (LinBreg, MLLinBreg) else {}

    def steps(net, optimizer, first, last):
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            for parameter in net.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()

    whole, parted = small_net(), small_net()
    for net in (whole, parted):
        net.to(memory_format=torch.channels_last)
    straight = optimizer_class(groups_of(whole), 0.1, **options)
    steps(whole, straight, 0, 11)
    broken = optimizer_class(groups_of(parted), 0.1, **options)
    steps(parted, broken, 0, stop)
    file = io.BytesIO()
    torch.save({"net": parted.state_dict(), "optimizer": broken.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = small_net().to(memory_format=torch.channels_last)
    fresh.load_state_dict(saved["net"])
    # The constructor's values are wrong on purpose: the saved ones rule.
    resumed = optimizer_class(groups_of(fresh, lam=0.7), 0.3, **options)
    resumed.load_state_dict(saved["optimizer"])
    steps(fresh, resumed, stop, 11)
    for a, b in zip(whole.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b)
        for key, value in straight.state[a].items():
            other = resumed.state[b][key]
            assert (
                torch.equal(value, other) and value.dtype == other.dtype if torch.is_tensor(value) else value == other
            )


@pytest.mark.parametrize("optimizer_class", ALL)
def test_schedulers_deepcopy_and_plain_groups(optimizer_class):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = optimizer_class([parameter], 0.1, "l1", 0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    parameter.grad = torch.ones(3)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    plain = (int, float, str, type(None), tuple)
    for key, value in optimizer.param_groups[0].items():
        assert key == "params" or type(value) in (*plain, bool)
    twin = copy.deepcopy(optimizer)
    (copied,) = twin.param_groups[0]["params"]
    copied.grad = torch.ones(3)
    twin.step()
    optimizer.step()
    assert torch.equal(copied, parameter)


@pytest.mark.parametrize("optimizer_class", ALL)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regularizer": "L1"}, r"regularizer 'L1' is unknown \(did you mean 'l1'\?\): allowed are None, 'l1', 'rows'"),
        ({"regularizer": "kernel"}, "did you mean 'kernels'"),
        ({"regularizer": "none"}, "did you mean None"),
        ({"regularizer": "nonsense!"}, "is unknown"),
        (
            {"regularizer": "rows"},
            r"'rows' needs tensors of 2 or more dimensions, but its group has one of shape \(3,\)",
        ),
        ({"regularizer": "kernels"}, "needs tensors of 2 or more"),
        ({"regularizer": "filters"}, "needs tensors of 3 or more"),
        ({"lam": -0.1}, "lam -0.1 must be a number, 0 or more and finite"),
        ({"lam": float("nan")}, "lam nan"),
        ({"lam": None}, "lam is required"),
        ({"delta": 0.0}, "delta 0.0 must be a number, above 0"),
        ({"delta": -1.0}, "delta -1.0"),
        ({"lr": -1e-3}, "lr -0.001"),
        ({"lr": "0.1"}, "lr '0.1'"),
        ({"weight_decay": -1.0}, "weight_decay -1.0"),
        ({"lambda_scale": -1.0}, "lambda_scale -1.0"),
    ],
)
def test_bad_values_are_refused_at_construction(optimizer_class, settings, message):
    options = {"lr": 0.1, "regularizer": "l1", "lam": 0.1} | settings
    with pytest.raises(ValueError, match=message) as caught:
        optimizer_class([torch.nn.Parameter(torch.ones(3))], **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("optimizer_class", "settings", "message"),
    [
        (LinBreg, {"momentum": 1.0}, "momentum 1.0 must be a number, 0 or more and below 1"),
        (LinBreg, {"momentum": -0.1}, "momentum -0.1"),
        (AdaBreg, {"betas": (0.9, 1.0)}, "betas"),
        (AdaBreg, {"eps": -1.0}, "eps -1.0"),
        (MLLinBreg, {"coarse_steps": -1}, "coarse_steps -1 must be a whole number, 0"),
        (MLLinBreg, {"coarse_steps": 1.5}, "coarse_steps 1.5"),
        (MLLinBreg, {"start_with": "middle"}, "start_with 'middle' is unknown .allowed: coarse, fine"),
        (MLLinBreg, {"criterion": "mlbpgd"}, "criterion 'mlbpgd' is unknown .allowed: fixed, support_change, ml_bpgd"),
        (MLLinBreg, {"kappa": -0.1}, "kappa"),
        (MLAdaBreg, {"coarse_steps": -1}, "coarse_steps -1"),
    ],
)
def test_bad_values_of_one_optimizer(optimizer_class, settings, message):
    with pytest.raises(ValueError, match=message):
        optimizer_class([torch.nn.Parameter(torch.ones(3))], 0.1, "l1", 0.1, **settings)


def test_slips_in_group_keys_are_refused():
    parameter = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"key 'regulariser' is unknown \(did you mean 'regularizer'"):
        LinBreg([{"params": [parameter], "regulariser": None}], 0.1, "l1", 0.1)
    with pytest.raises(ValueError, match=r"key 'lambda' is unknown \(did you mean .*'lam'"):
        LinBreg([{"params": [parameter], "lambda": 0.1}], 0.1, "l1", 0.1)
    LinBreg([{"params": [parameter], "name": "layer", "lr_scale": 0.5}], 0.1, "l1", 0.1)


def test_a_refused_group_is_not_kept():
    optimizer = LinBreg([torch.nn.Parameter(torch.ones(3))], 0.1, "l1", 0.1)
    with pytest.raises(ValueError, match="lam"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lam": -1.0})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("optimizer_class", DUAL)
def test_an_all_zero_network_is_refused_and_may_be_mended(optimizer_class):
    weight, bias = torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.ones(2))
    optimizer = optimizer_class([{"params": [weight]}, {"params": [bias], "regularizer": None}], 0.1, "l1", 0.1)
    weight.grad, bias.grad = torch.ones(2, 3), torch.ones(2)
    with pytest.raises(ValueError, match="sparse initialisation"):
        optimizer.step()
    assert torch.equal(bias, torch.ones(2))
    with torch.no_grad():
        weight[0, 0] = 1.0
    optimizer.step()
    assert float(weight[0, 0].detach()) != 1.0


def test_sparse_gradients_are_refused():
    table = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = LinBreg(table.parameters(), 0.1, "l1", 0.1)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="dense"):
        optimizer.step()


def stepped(optimizer_class=LinBreg, regularizer="l1", lam=0.3, delta=0.5, steps=4, **options):
    generator = torch.Generator().manual_seed(1)
    parameter = torch.nn.Parameter(torch.randn(6, 5, generator=generator, dtype=torch.float64))
    with torch.no_grad():
        parameter[2:] = 0.0
    optimizer = optimizer_class([parameter], 0.2, regularizer, lam, delta=delta, **options)
    for _ in range(steps):
        parameter.grad = torch.randn(6, 5, generator=generator, dtype=torch.float64)
        optimizer.step()
    return parameter, optimizer


def test_keep_makes_active_weights_jump():
    parameter, optimizer = stepped()
    theta, dual = parameter.detach().clone(), optimizer.duals()[parameter].clone()
    optimizer.set_lambda(0.31, "keep")
    assert torch.equal(optimizer.duals()[parameter], dual)
    stays = (theta != 0) & (parameter != 0)
    jump = (parameter.detach() - theta)[stays]
    torch.testing.assert_close(jump, -0.5 * (0.31 - 0.3) * theta.sign()[stays])
    optimizer.set_lambda(0.3)
    torch.testing.assert_close(parameter.detach(), theta)


@pytest.mark.parametrize("regularizer", ["l1", "rows"])
@pytest.mark.parametrize("lam", [0.05, 0.9])
def test_shift_leaves_weights_alone(regularizer, lam):
    parameter, optimizer = stepped(regularizer=regularizer)
    theta = parameter.detach().clone()
    optimizer.set_lambda(lam, "shift")
    assert torch.equal(parameter, theta)
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # theta is again the image of the dual
    torch.testing.assert_close(parameter.detach(), theta)
    assert torch.equal(parameter == 0, theta == 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shift_revives_no_group_by_rounding(dtype):
    """Groups cut to the boundary of a smaller lambda must stay zero when they are measured again."""
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.zeros(500, 7, dtype=dtype))
    with torch.no_grad():
        parameter[0] = 1.0
    optimizer = LinBreg([parameter], 0.3, "rows", 2.0)
    parameter.grad = torch.randn(500, 7, generator=generator, dtype=dtype)
    optimizer.step()
    optimizer.set_lambda(0.1, "shift")
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert int((parameter != 0).any(1).sum()) == 1


def test_shift_keeps_progress_within_the_new_range():
    parameter, optimizer = stepped()
    inactive = parameter.detach() == 0
    dual = optimizer.duals()[parameter].clone()
    optimizer.set_lambda(0.1, "shift")
    torch.testing.assert_close(optimizer.duals()[parameter][inactive], dual[inactive].clamp(-0.1, 0.1))


@pytest.mark.parametrize("regularizer", ["l1", "rows"])
def test_reset_restores_the_initial_form(regularizer):
    parameter, optimizer = stepped(regularizer=regularizer)
    theta = parameter.detach().clone()
    optimizer.set_lambda(0.2, "reset")
    assert torch.equal(parameter, theta)
    direction = theta.sign() if regularizer == "l1" else 5**0.5 * torch.nn.functional.normalize(theta, dim=1)
    torch.testing.assert_close(optimizer.duals()[parameter], theta / 0.5 + 0.2 * direction)


def test_set_lambda_before_the_first_step_and_bad_policies():
    parameter, optimizer = stepped(steps=0)
    theta = parameter.detach().clone()
    optimizer.set_lambda(0.7)
    assert torch.equal(parameter, theta)
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(optimizer.duals()[parameter], theta / 0.5 + 0.7 * theta.sign())
    with pytest.raises(ValueError, match="policy 'jump' is unknown"):
        optimizer.set_lambda(0.1, "jump")
    with pytest.raises(ValueError, match="lam -1"):
        optimizer.set_lambda(-1.0)


def test_set_lambda_respects_groups():
    net = small_net()
    optimizer = LinBreg(groups_of(net), 0.1)
    optimizer.set_lambda(0.2)
    assert [group["lam"] for group in optimizer.param_groups] == [0.2, 0.2, 0.0]
    assert [group["lambda_scale"] for group in optimizer.param_groups] == [1.0, 0.5, 1.0]


@pytest.mark.parametrize("optimizer_class", DUAL)
def test_edits_of_weights_need_reset_dual(optimizer_class):
    parameter, optimizer = stepped(optimizer_class, steps=3)
    zeros = torch.zeros_like(parameter)
    theta = parameter.detach().clone()
    with torch.no_grad():
        parameter.mul_(0.25)
        parameter[5] = 1.0
    edited = parameter.detach().clone()
    optimizer.reset_dual()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    parameter.grad = zeros
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), edited)
    assert not torch.allclose(theta, edited)


@pytest.mark.parametrize("k", [0, 1, 7, 29, 30])
def test_quantile_keeps_exactly_k(k):
    parameter, optimizer = stepped()
    optimizer.set_lambda(quantile_lambda([optimizer.duals()[parameter]], k), "keep")
    assert int((parameter != 0).sum()) == k


@pytest.mark.parametrize("k", range(1, 13))
def test_quantile_over_scales_and_groups_keeps_exactly_k(k):
    generator = torch.Generator().manual_seed(k)
    conv, wide = (torch.nn.Parameter(torch.randn(s, generator=generator)) for s in ((3, 2, 3, 3), (3, 7)))
    free = torch.nn.Parameter(torch.ones(3))
    groups = [
        {"params": [conv], "regularizer": "kernels", "lambda_scale": 0.3},
        {"params": [wide], "regularizer": "rows", "lambda_scale": 1.7},
        {"params": [free], "regularizer": None},
    ]
    optimizer = LinBreg(groups, 0.1, "l1", 0.01)
    for parameter in (conv, wide, free):
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    sizes = optimizer.measure_duals()
    assert [size.numel() for size in sizes] == [6, 3]
    if k > 9:
        with pytest.raises(ValueError, match=f"k = {k} entries cannot survive among 9"):
            quantile_lambda(sizes, k)
        return
    optimizer.set_lambda(quantile_lambda(sizes, k))
    kept = int((conv.flatten(2) != 0).any(2).sum()) + int((wide != 0).any(1).sum())
    assert kept == k


def test_quantile_by_hand():
    duals = [torch.tensor([0.5, -3.0]), torch.tensor([[2.0], [-1.0]])]
    assert quantile_lambda(duals, 2) == 1.0
    assert quantile_lambda(duals, 0) == 3.0
    assert quantile_lambda(duals, 4) == 0.0
    with pytest.raises(ValueError, match="from 0 to 4"):
        quantile_lambda(duals, -1)


def test_quantile_controller_reaches_a_density_on_a_toy():
    """A ramp of quantiles ends on the wanted number of weights."""
    generator = torch.Generator().manual_seed(0)
    data, target = torch.randn(64, 40, generator=generator), torch.randn(64, 1, generator=generator)
    weight = torch.nn.Parameter(torch.randn(1, 40, generator=generator) * 0.1)
    optimizer = LinBreg([weight], 0.05, "l1", 0.0)
    for step in range(60):
        loss = (data @ weight.T - target).square().mean()
        (weight.grad,) = torch.autograd.grad(loss, weight)
        optimizer.step()
        if step % 10 == 9:
            optimizer.set_lambda(quantile_lambda(optimizer.measure_duals(), 40 - 6 * (step // 10 + 1)))
    assert int((weight != 0).sum()) == 4


def test_weight_decay_enters_the_dual():
    parameter = torch.nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float64))
    optimizer = LinBreg([parameter], 0.1, "l1", 0.2, weight_decay=0.5)
    parameter.grad = torch.tensor([0.3, 0.3], dtype=torch.float64)
    optimizer.step()
    # v = (1.2, 0) - 0.1 (0.3 + 0.5, 0.3)
    assert optimizer.duals()[parameter].tolist() == pytest.approx([1.12, -0.03])
    assert parameter.tolist() == pytest.approx([0.92, 0.0])
