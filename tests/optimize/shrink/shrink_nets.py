"""Small torch modules and their training data, named by the tests as ``shrink_nets:function``."""

import functools

import torch
from torch import nn

torch.set_num_threads(1)  # two that wait for each other are slower on a machine that is not idle

SHAPE = (1, 1, 12, 12)
SEEN = []
"""Modules that ``train`` was handed: they are trained in place, so this is the one that is exported."""


def block(inputs, outputs, stride=1):
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def head(inputs, side=6):
    return [nn.AvgPool2d(side // 3), nn.Flatten(), nn.Linear(9 * inputs, 4)]


def samples(seed, count):
    """Where is the bright stripe: top, bottom, left or right."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    images = torch.rand((count, 1, 12, 12), generator=generator)
    for image, label in zip(images, labels, strict=True):
        if label < 2:
            image[0, 7 * int(label) : 7 * int(label) + 5] += 0.5
        else:
            image[0, :, 7 * (int(label) - 2) : 7 * (int(label) - 2) + 5] += 0.5
    return images, labels


def batches(seed):
    images, labels = samples(seed + 1, 256)
    for start in range(0, 256, 32):
        yield images[start : start + 32], labels[start : start + 32]


def unlabelled(seed):
    for images, _ in batches(seed):
        yield images.numpy(), None


def wild(seed):
    for images, labels in batches(seed):
        yield images * 2e38, labels


def broken_after_three(seed):
    for number, (images, labels) in enumerate(batches(seed)):
        yield images if number < 3 else images * float("nan"), labels


def fails(seed):
    raise KeyError(f"no epoch {seed}")


def none(seed):
    return iter(())


def bare(seed):
    return iter([torch.zeros(SHAPE)])


def train(model, loss, *, epochs, seed, progress):
    SEEN.append(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for epoch in range(epochs):
        for images, labels in batches(100 * seed + epoch):
            optimizer.zero_grad()
            loss(model(images), labels, images).backward()
            optimizer.step()
        progress((epoch + 1) / epochs, "mine")


def idle(model, loss, *, epochs, seed, progress):
    """Train nothing."""


def wrong(model, data):
    """Take other parameters than edgekit gives."""


def squares(outputs, targets):
    return (outputs - nn.functional.one_hot(targets, 4)).pow(2).mean()


def vector(outputs, targets):
    return (outputs - nn.functional.one_hot(targets, 4)).pow(2)


class Mixed(nn.Module):
    """Everything that ties channels together: addition, concatenation, depthwise, and a loose head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(*block(1, 16))
        self.left = nn.Sequential(*block(16, 16))
        self.right = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16))
        self.after = nn.Sequential(*block(32, 24, 2))
        self.head = nn.Sequential(*head(24))

    def forward(self, image):
        x = self.stem(image)
        return self.head(self.after(torch.cat([x + self.left(x), self.right(x)], 1)))


class Fixed(nn.Module):
    """A reshape that knows the number of channels."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, 2, 1)
        self.second = nn.Conv2d(16, 16, 3, 2, 1)
        self.last = nn.Linear(16 * 9, 4)

    def forward(self, image):
        return self.last(torch.relu(self.second(torch.relu(self.first(image)))).reshape(-1, 16 * 9))


class Grouped(nn.Module):
    """A normalisation over groups of channels."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1), nn.GroupNorm(4, 16), nn.ReLU(), *block(16, 16))
        self.head = nn.Sequential(*head(16, 12))

    def forward(self, image):
        return self.head(self.body(image))


class Detached(nn.Module):
    """Gradients do not pass."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(*block(1, 16), *head(16, 12))

    def forward(self, image):
        return self.body(image).detach()


@functools.cache
def _trained():
    torch.manual_seed(0)
    model = nn.Sequential(*block(1, 16), *block(16, 32, 2), *head(32))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(6):
        for images, labels in batches(500 + epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model.eval().state_dict()


def net():
    model = nn.Sequential(*block(1, 16), *block(16, 32, 2), *head(32))
    model.load_state_dict(_trained())
    return model


def small():
    return nn.Sequential(*block(1, 8, 2), *head(8))


def mixed():
    torch.manual_seed(0)
    return Mixed()


def with_softmax():
    return nn.Sequential(*block(1, 16), *head(16, 12), nn.Softmax(1))


def other_outputs():
    return nn.Sequential(*block(1, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def not_finite():
    model = small()
    with torch.no_grad():
        model[0].weight[0] = float("nan")
    return model


def scripted():
    return torch.jit.script(small())


def accuracy(model, seed=9999):
    images, labels = samples(seed, 400)
    with torch.no_grad():
        return float((model.eval()(images).argmax(1) == labels).float().mean())
