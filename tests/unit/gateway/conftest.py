"""One stub and one gateway for all tests that need no other configuration; others start their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from gateway_process import Gateway, free_port, gateway_config
from stub_serving import StubServing


@pytest.fixture(scope="session")
def shared_stub() -> Iterator[StubServing]:
    stub = StubServing(free_port()).start()
    yield stub
    stub.stop()


@pytest.fixture(scope="session")
def shared_gateway(shared_stub: StubServing) -> Iterator[Gateway]:
    gateway = Gateway(gateway_config(shared_stub.address))
    yield gateway
    gateway.stop()


@pytest.fixture
def stub(shared_stub: StubServing) -> Iterator[StubServing]:
    """The shared stub, healthy and without memories."""
    shared_stub.reset()
    yield shared_stub
    shared_stub.released.set()


@pytest.fixture
def gateway(shared_gateway: Gateway, stub: StubServing) -> Gateway:
    """The shared gateway in front of `stub`."""
    return shared_gateway


@pytest.fixture
def new_stub() -> Iterator[Callable[[], StubServing]]:
    """Makes stubs that are not started yet, and stops them."""
    stubs: list[StubServing] = []

    def make() -> StubServing:
        stubs.append(StubServing(free_port()))
        return stubs[-1]

    yield make
    for stub in stubs:
        stub.stop()


@pytest.fixture
def new_gateway() -> Iterator[Callable[..., Gateway]]:
    """Starts gateways for upstream addresses and configuration changes, and stops them; the rest is Gateway's."""
    gateways: list[Gateway] = []

    def start(*upstreams: str, traffic: str | None = None, options: Sequence[str] = (), **changes: Any) -> Gateway:
        gateways.append(Gateway(gateway_config(*upstreams, **changes), traffic=traffic, options=options))
        return gateways[-1]

    yield start
    for gateway in gateways:
        gateway.stop()
