"""Entry point of the processes that the supervisor starts: the engine and the front ends."""

import sys


def main() -> int:
    """Run the process that the only argument names."""
    from service.errors import InvalidConfiguration  # noqa: PLC0415
    from service.frontends.start import EngineStart, FrontEndStart, read_start  # noqa: PLC0415

    start = read_start()
    try:
        if sys.argv[1] == "engine":
            from service.frontends import engine_process  # noqa: PLC0415

            return engine_process.run(EngineStart.model_validate_json(start))
        from service.frontends import front_end_process  # noqa: PLC0415

        return front_end_process.run(FrontEndStart.model_validate_json(start))
    except InvalidConfiguration as error:
        print(f"vt-serve: {error}", file=sys.stderr)  # noqa: T201
        return 2


if __name__ == "__main__":
    sys.exit(main())
