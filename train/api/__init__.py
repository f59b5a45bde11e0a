"""Training and asking models from Python; `import train` shows what is here."""
