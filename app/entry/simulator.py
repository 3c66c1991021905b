"""``run.py simulator``."""

from app.entry.process import run_process
from app.settings import Settings
from app.simulator.replay import Recording, load_recording
from app.simulator.server import serve_simulator
from app.supervision.claims import ensure_port_is_free
from app.supervision.problems import CONFIGURATION_EXIT_CODE, StartProblem


def main(settings: Settings, *, host: str) -> None:
    """Run the local exchange until told to stop. Raises StartProblem."""
    ensure_port_is_free(host, settings.simulator_port, option="--port", variable="TIDEMARK_SIMULATOR_PORT")
    recordings = _recordings(settings)

    async def work() -> None:
        async with serve_simulator(
            host=host,
            port=settings.simulator_port,
            ticks_per_s=settings.simulator_ticks_per_s,
            replay=recordings,
            funding_interval_s=settings.simulator_funding_interval_s,
            made_up_coins=settings.simulator_made_up_coins,
        ) as simulator:
            await simulator.serve_forever()

    run_process("simulator", settings, work)


def _recordings(settings: Settings) -> list[Recording]:
    trades, quotes = settings.simulator_replay_trades, settings.simulator_replay_quotes
    if trades is None and quotes is None:
        return []
    try:
        return [
            load_recording(
                settings.simulator_replay_symbol, trades=trades, quotes=quotes, speed=settings.simulator_replay_speed
            )
        ]
    except (OSError, ValueError, KeyError) as error:
        raise StartProblem(f"the recording cannot be read: {error}", exit_code=CONFIGURATION_EXIT_CODE) from None
