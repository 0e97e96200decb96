"""The command line of `balance`: the nouns `service`, `backend` and `decap`.

service   VIPs and their settings          ipvs      `service import-ipvs`
backend   the servers behind them          drain     `backend drain` and `undrain`, and what they wait for
decap     whose outer headers are taken off
listing   what `service show` prints, in the manner of `ipvsadm -Ln`
"""
