"""Our own signals, radios and channels. Windows come from here, tables from :mod:`offramp.data`."""
