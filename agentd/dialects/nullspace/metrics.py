"""What the machine is used for: section 3.7 of the wire contract, whose keys are closed."""

from msgspec import Struct

from agentd.dialects.values import rfc3339
from agentd.http.endpoint import Call, Endpoint
from agentd.linux.meter import Meter
from agentd.linux.threads import in_thread


class MetricsReply(Struct):
    timestamp: str
    cpu_percent: float
    cpu_count: int
    mem_used_bytes: int
    mem_total_bytes: int
    disk_used_bytes: int
    disk_total_bytes: int
    network_rx_bytes: int
    network_tx_bytes: int


class MetricsRows:
    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("GET", "/metrics", "metrics", self.metrics),
                result=list[MetricsReply],
                summary="Processor, memory, disk and network in use; one sample, the processor's since the one before",
            ),
        )

    async def metrics(self, call: Call) -> list[MetricsReply]:
        found = await in_thread(self._meter.sample)
        return [
            MetricsReply(
                rfc3339(found.time),
                found.cpu_percent,
                found.cpu_count,
                found.memory_used,
                found.memory_total,
                found.disk_used,
                found.disk_total,
                found.received,
                found.sent,
            )
        ]
