"""`config show / diff / schema`."""

import argparse

from jaxrl_llm.verbs import add_config, print_table

HELP = "Look after configs: what one resolves to and why, how two differ, and a JSON schema for editors."


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="what a config says beyond the defaults, and where it says it")
    add_config(show)
    show.add_argument("--all", action="store_true", help="every key, defaults too")
    diff = actions.add_parser("diff", help="what two configs disagree on")
    diff.add_argument("a", metavar="A", help="a config, such as runs/x/config.yaml or pretrain/debug")
    diff.add_argument("b", metavar="B", help="another")
    schema = actions.add_parser("schema", help="the JSON schema of config files")
    schema.add_argument("--of", choices=("train", "reject"), default="train", help="the verb that reads them")


def run(args: argparse.Namespace) -> int:
    """Print what was asked for."""
    return {"show": _show, "diff": _diff, "schema": _schema}[args.action](args)


def _show(args: argparse.Namespace) -> int:
    from jaxrl_llm.config import changed, flatten
    from jaxrl_llm.config.yaml_source import to_yaml
    from jaxrl_llm.reject.config import resolve_any

    resolved = resolve_any(args.config, args.overrides)
    values = flatten(resolved.config) if args.all else changed(resolved.config)
    print_table((key, to_yaml(value), resolved.provenance.get(key, "default")) for key, value in values.items())
    return 0


def _diff(args: argparse.Namespace) -> int:
    from jaxrl_llm.config import ABSENT, diff
    from jaxrl_llm.config.yaml_source import to_yaml
    from jaxrl_llm.errors import UserError
    from jaxrl_llm.reject.config import resolve_any

    def cell(value: object) -> str:
        return repr(value) if value is ABSENT else to_yaml(value)

    a, b = (resolve_any(path).config for path in (args.a, args.b))
    if type(a) is not type(b):
        raise UserError(f"{args.a} and {args.b} are for different verbs: one is a config of `reject`")
    differences = diff(a, b)
    if differences:
        print_table(((key, cell(a), cell(b)) for key, (a, b) in differences.items()), ("", args.a, args.b))
    return 0


def _schema(args: argparse.Namespace) -> int:
    import json

    from jaxrl_llm.config import Config
    from jaxrl_llm.config.editor import json_schema
    from jaxrl_llm.reject.config import RejectConfig

    print(json.dumps(json_schema({"train": Config, "reject": RejectConfig}[args.of]), indent=2))
    return 0
