"""What all servers of others over HTTP have in common, whatever API they speak: transport, trust, errors, health."""
