"""Nano as a folder of plain files that runs in a browser: graphs made small, tables for the page, the page itself."""
