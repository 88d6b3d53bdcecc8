"""Replicas that a test holds in its hand, and the model of them."""

import asyncio
import threading
import time

import numpy as np
from scripted import Scripted

from edgekit.core.errors import AcceleratorLostError, BackendUnavailableError, GoldenError, NoVariantError
from edgekit.serve.lane import outcome_of
from edgekit.serve.ports import Limits, Offer
from edgekit.serve.replicas import Replicated

NEVER = float("inf")


class ReplicaInHand:
    """One replica's offer: opens scripted models, and keeps them."""

    def __init__(self, name, kind=Scripted, **options):
        self.name, self.kind, self.options = name, kind, options
        self.models, self.errors, self.losses, self.due_s, self.switch = [], [], [], 0.0, None
        self.wrong = self.rested = False
        self.doubts, self.rechecks = threading.Semaphore(0), 0
        self.opening, self.failing = threading.Event(), threading.Event()
        self.opening.set()
        self.failing.set()
        self.has_begun_to_open = threading.Event()

    @property
    def model(self):
        return self.models[-1]

    def open(self):
        self.has_begun_to_open.set()
        self.opening.wait(60)
        if time.monotonic() < self.due_s:
            raise BackendUnavailableError("it is not due")
        if self.errors:
            self.due_s = NEVER
            raise self.errors.pop(0)
        self.models.append(self.kind(self.name, **self.options))
        return HeldInHand(self)

    def lost(self, reason):
        self.due_s = NEVER
        self.losses.append(reason)

    def forget(self):
        self.due_s = 0.0

    def give_back(self):
        """Have the lost one work again, as the holder's thread does."""
        self.models.append(self.kind(self.name, **self.options))
        self.switch(self.model)


class HeldInHand:
    """What is open of one; nothing takes over from it."""

    def __init__(self, offer):
        self.offer, self.servable = offer, offer.model

    def fail_over(self, lost, error):
        self.offer.failing.wait(60)
        lost.close()
        raise NoVariantError(f"{self.offer.name} is lost: {error.message}")

    def watch(self, switch):
        self.offer.switch = switch

    def status(self):
        return {"excluded": {}, "failed_returns": 0}

    def recheck(self, waiting):
        self.offer.rechecks += 1
        if self.offer.wrong:
            self.offer.wrong = False
            raise GoldenError("golden sample 0 is off by 7")
        return False

    def doubt(self):
        self.offer.doubts.release()

    def rest(self):
        self.offer.rested = True

    def close(self):
        self.servable.close()


class Ask:
    """A request without HTTP."""

    def __init__(self, number=0.0):
        self.x = np.full((1, 4), number, np.float32)

    def on(self, servable):
        return self.done(servable, servable.infer(self.feeds(servable)), 0.0)

    def feeds(self, servable):
        return {"x": self.x}

    def done(self, servable, outputs, took_s):
        return servable.variant, float(outputs["y"][0, 0])


class Group:
    """A model of replicas, loaded, with its lanes."""

    def __init__(self, *names, needs_all=True, limits=None, **options):
        self.offers = [ReplicaInHand(name, **options) for name in names]
        offer = Offer("double", "1.0.0", self.offers[0].open, tuple(self.offers))
        self.entry = Replicated(offer, limits or Limits(), needs_all=needs_all)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for offer in self.offers:
            offer.opening.set()
            offer.failing.set()
            for model in offer.models:
                model.gate.set()
        self.entry.end()

    def load(self):
        asyncio.run(self.entry.load())
        return self

    def ask(self, number=0.0, **terms):
        return self.entry.lane.submit([Ask(number)], kind="infer", **terms)

    def rows(self, key):
        return [row[key] for row in self.entry.replicas()]

    def begin(self):
        """Have every replica that is ready run a request, and return them by the replicas' names."""
        ready = [o for o, is_ready in zip(self.offers, self.rows("ready"), strict=True) if is_ready]
        for offer in ready:
            offer.model.gate.clear()
            while offer.model.entered.acquire(blocking=False):
                pass
        begun = {whose(entry): entry for entry in [self.ask(1) for _ in ready]}
        for offer in ready:
            assert offer.model.entered.acquire(timeout=60)
        return begun

    def lose(self, position):
        """Have one of them lose its accelerator in a request, which another one answers."""
        begun, offer = self.begin(), self.offers[position]
        lose(offer.model)
        self.open_gates()
        for entry in begun.values():
            assert answered(entry)
        until(lambda: not self.rows("ready")[position])

    def open_gates(self):
        for offer in self.offers:
            for model in offer.models:
                model.gate.set()


def whose(entry):
    """Return the name of the replica that a request waits for, or runs on."""
    return entry.works[0].replica.name


def answered(entry):
    """Wait for a request, and return its answer."""
    assert entry.done.wait(60)
    result, error = outcome_of(entry)
    if error is not None:
        raise error
    return result


def until(claim):
    """Wait until something holds that a thread brings about."""
    ends_s = time.monotonic() + 60
    while not claim():
        assert time.monotonic() < ends_s
        threading.Event().wait(0.002)


def lose(model):
    """Have the next inference of a model lose its accelerator."""
    model.errors.append(AcceleratorLostError("it was pulled out"))
