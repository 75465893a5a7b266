"""A page that reports chest X-rays by ORG/MODEL. Research software, not for clinical use."""

from otdrg_hf.app.server import run_app

if __name__ == "__main__":
    run_app("ORG/MODEL", host="0.0.0.0", port=7860, embedded=True)
