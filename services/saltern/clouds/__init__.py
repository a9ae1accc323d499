"""Rented machines, through apache-libcloud: one way of making and ending them, whoever rents them out.

`settings` reads the configuration, `userdata` writes what a machine runs at its first boot, `faults` says what an error
means and `patience` how long to go on, all without side effects. `dialect` and its neighbours know what differs between
clouds; `cloud` acts.
"""
