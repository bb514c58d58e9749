"""One script for each way a call can go, in the company of the built-in scenario.

They are played on demand: by `twistd mxsim --play`, or through the control API.
"""

from __future__ import annotations

FLOWS = """\
  - name: incoming-answered
    start: null
    steps:
      - call: {from: "+12025550104", to: "3095"}
      - wait: 3
      - answer: "3095"
      - wait: 5
      - hang_up: "3095"

  - name: incoming-missed
    start: null
    steps:
      - call: {from: "+12025550104", to: "3095"}
      - wait: 5
      - hang_up: "+12025550104"

  - name: incoming-voicemail
    start: null
    steps:
      - call: {from: "+12025550104", to: "3095"}
      - wait: 5
      - no_answer: "3095"
      - wait: 5
      - hang_up: "+12025550104"

  - name: incoming-rejected
    start: null
    steps:
      - call: {from: "+12025550104", to: "3095"}
      - wait: 3
      - hang_up: "3095"

  - name: second-call
    start: null
    steps:
      - call: {from: "+12025550104", to: "3095"}
      - wait: 2
      - answer: "3095"
      - wait: 3
      - call: {from: "+12025550117", to: "3095"}
      - wait: 2
      - answer: "3095"
      - wait: 3
      - hang_up: "+12025550117"
      - wait: 2
      - retrieve: "3095"
      - wait: 3
      - hang_up: "3095"

  - name: outgoing-answered
    start: null
    steps:
      - call: {from: "3095", to: "+12025550117"}
      - wait: 3
      - answer: "+12025550117"
      - wait: 5
      - hang_up: "+12025550117"

  - name: outgoing-given-up
    start: null
    steps:
      - call: {from: "3095", to: "+12025550117"}
      - wait: 5
      - hang_up: "3095"

  - name: outgoing-busy
    start: null
    steps:
      - call: {from: "3095", to: "+12025550190"}

  - name: outgoing-unknown
    start: null
    steps:
      - call: {from: "3095", to: "999"}

  - name: internal
    start: null
    steps:
      - call: {from: "3044", to: "3095"}
      - wait: 3
      - answer: "3095"
      - wait: 5
      - hang_up: "3044"

  - name: hold
    start: null
    steps:
      - call: {from: "3044", to: "3095"}
      - wait: 2
      - answer: "3095"
      - wait: 3
      - hold: "3095"
      - wait: 3
      - retrieve: "3095"
      - wait: 3
      - hang_up: "3095"

  - name: transfer
    start: null
    steps:
      - call: {from: "+12025550104", to: "3095"}
      - wait: 2
      - answer: "3095"
      - wait: 3
      - transfer: {from: "3095", to: "3044"}
      - wait: 2
      - answer: "3044"
      - wait: 4
      - hang_up: "3044"

  - name: consult-transfer
    start: null
    steps:
      - call: {from: "+12025550104", to: "3095"}
      - wait: 2
      - answer: "3095"
      - wait: 3
      - consult: {from: "3095", to: "3044"}
      - wait: 2
      - answer: "3044"
      - wait: 3
      - join: "3095"
      - wait: 4
      - hang_up: "3044"

  - name: deflect
    start: null
    steps:
      - call: {from: "+12025550104", to: "3095"}
      - wait: 2
      - deflect: {from: "3095", to: "3044"}
      - wait: 2
      - answer: "3044"
      - wait: 4
      - hang_up: "3044"

  - name: park
    start: null
    steps:
      - call: {from: "+12025550104", to: "3095"}
      - wait: 2
      - answer: "3095"
      - wait: 3
      - park: "3095"
      - wait: 3
      - pick_up: "3044"
      - wait: 4
      - hang_up: "3044"

  - name: recording
    start: null
    steps:
      - call: {from: "+12025550104", to: "3095"}
      - wait: 2
      - answer: "3095"
      - wait: 2
      - record: "3095"
      - wait: 3
      - stop_recording: "3095"
      - wait: 2
      - hang_up: "3095"

  - name: contacts
    start: null
    steps:
      - presence: {ext: "3061", status: NotAvailable, note: in a meeting}
      - wait: 3
      - add_user: {ext: "3120", login: ines, password: demo, first_name: Inês, last_name: Duarte}
      - wait: 3
      - update_user: {ext: "3120", cell_phone: "+447700900120"}
      - wait: 3
      - delete_user: "3120"
      - wait: 3
      - presence: {ext: "3061", status: BeRightBack, note: back at three}
"""
