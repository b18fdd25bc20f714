"""The package as one uses it from Python, with its public names alone."""

import torch

import limbeck as lb


def test_distil_on_digits_in_fifteen_lines() -> None:
    data = lb.Digits(label_noise=0.3, seed=0)
    parts = lb.split(data, seed=0, query=100)
    spec = lb.DataSpec(data.kind, data.input_shape, len(data.classes))
    torch.manual_seed(0)
    teacher, student = lb.MLP(width=64).build(spec), lb.MLP(width=16).build(spec)
    loader = lb.Loader(data, parts.train, batch_size=64, seed=0, labels=data.labels)
    queries, test = lb.whole(data, parts.query, data.truth), lb.whole(data, parts.test, data.truth)

    lb.fit(lb.Distiller(teacher, None, lb.CE()), loader, torch.optim.SGD(teacher.parameters(), lr=0.1, momentum=0.9), epochs=6)
    distiller = lb.Distiller(
        student, lb.Single(teacher), lb.KD(T=4) * 0.5 + lb.CE() * 0.5, weighting=lb.InfluenceWeighting(refresh=5)
    )
    lb.fit(distiller, loader, torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9), epochs=6, queries=queries)
    found = lb.accuracy(student.eval()(test.inputs).detach(), test.targets)

    assert float(found) > 0.6
    assert all(part.grad is None for part in teacher.parameters() if not part.requires_grad)


def test_scores_of_any_trained_model() -> None:
    data = lb.Digits(label_noise=0.2, seed=0)
    parts = lb.split(data, seed=0)
    torch.manual_seed(0)
    net = lb.MLP(width=16).build(lb.DataSpec(data.kind, data.input_shape, len(data.classes)))
    loader = lb.Loader(data, parts.train, batch_size=64, seed=0, labels=data.labels)
    lb.fit(lb.Distiller(net, None, lb.CE()), loader, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), epochs=6)
    found = lb.score(lb.Tapped(net), lb.Supervised(), list(loader.epoch(0)), [lb.whole(data, parts.query, data.truth)])
    assert data.truth is not None
    assert lb.flip_auc(found.phi, (data.labels != data.truth)[found.index]) > 0.8
