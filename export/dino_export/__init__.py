"""Exports of learned backbones to other formats. Nothing is here yet; see the changelog."""
