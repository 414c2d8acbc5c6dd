"""Which connection is closed when a port has reached its limit."""

from structlog.testing import capture_logs

from service.http.server.connections import Connections


class Client:
    def __init__(self) -> None:
        self.is_answered = True
        self.is_open = True

    def give_way(self) -> bool:
        if self.is_answered:
            self.is_open = False
        return self.is_answered


def full(limit: int) -> tuple[Connections, list[Client]]:
    connections, clients = Connections(limit), [Client() for _ in range(limit)]
    assert all(connections.admit(client) for client in clients)
    return connections, clients


def are_open(clients: list[Client]) -> list[bool]:
    return [client.is_open for client in clients]


def test_the_longest_idle_connection_is_closed_and_a_request_resets_the_idle_time() -> None:
    connections, clients = full(3)
    connections.set_busy(clients[0])
    connections.set_idle(clients[0])
    assert connections.admit(Client())
    assert are_open(clients) == [True, False, True]
    assert connections.admit(Client())
    assert are_open(clients) == [True, False, False]


def test_busy_connections_stay_open_and_a_new_one_is_refused_if_all_are_busy() -> None:
    connections, clients = full(2)
    connections.set_busy(clients[0])
    new = Client()
    assert connections.admit(new)
    assert are_open(clients) == [True, False]
    connections.set_busy(new)
    assert not connections.admit(Client())
    connections.forget(clients[0])
    assert connections.admit(Client())


def test_a_connection_that_still_reads_its_answer_stays_open() -> None:
    connections, clients = full(2)
    clients[0].is_answered = False
    assert connections.admit(Client())
    assert are_open(clients) == [True, False]


def test_reserved_places_are_for_probes_until_others_are_free() -> None:
    connections = Connections(1, reserved=2)
    first, probe, *more = clients = [Client() for _ in range(4)]
    assert connections.admit(first)
    connections.set_busy(first)
    assert connections.admit(probe)
    connections.set_busy(probe)
    assert [connections.is_for_probes(each) for each in (first, probe)] == [False, True]
    assert connections.admit(more[0])
    connections.set_busy(more[0])
    assert not connections.admit(more[1])
    connections.forget(more[0])
    assert connections.is_for_probes(probe)
    connections.forget(first)
    assert not connections.is_for_probes(probe)
    assert all(are_open(clients))


def test_a_closed_connection_does_not_become_idle() -> None:
    connections, (client,) = full(1)
    connections.set_busy(client)
    connections.forget(client)
    connections.set_idle(client)
    assert connections.admit(Client())
    assert client.is_open


def test_a_full_port_is_logged_at_most_once_in_a_while() -> None:
    connections, clients = full(1)
    connections.set_busy(clients[0])
    with capture_logs() as lines:
        for _ in range(3):
            assert not connections.admit(Client())
    assert lines == [
        {
            "event": "connections_full",
            "log_level": "warning",
            "max_connections": 1,
            "closed_idle": 0,
            "refused": 1,
        }
    ]
