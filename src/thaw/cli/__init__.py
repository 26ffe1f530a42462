"""The command line: one module a command, and what all share.

Everything that concerns a terminal or a process is here: arguments, exit statuses, signals, environment variables,
progress and log lines. The rooms below neither print nor exit.
"""
