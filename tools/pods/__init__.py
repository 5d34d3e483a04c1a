"""Run the containers of the chart's Pods as processes of this machine."""
