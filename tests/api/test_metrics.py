"""What the metrics route promises."""

from datetime import UTC, datetime

from tests.conftest import Daemon

KEYS = {
    *("timestamp", "cpu_percent", "cpu_count", "mem_used_bytes", "mem_total_bytes"),
    *("disk_used_bytes", "disk_total_bytes", "network_rx_bytes", "network_tx_bytes"),
}


def test_there_is_one_sample_of_now_with_the_contract_s_keys_alone(shared: Daemon) -> None:
    (sample,) = shared.call("GET", "/v1/machines/m/metrics").json()
    assert set(sample) == KEYS
    assert abs((datetime.now(UTC) - datetime.fromisoformat(sample["timestamp"])).total_seconds()) < 10
    assert 0 <= sample["cpu_percent"] <= 100
    assert 0 < sample["mem_used_bytes"] < sample["mem_total_bytes"]
